package main

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/progress"
	"github.com/pimoe/pimoe/server/cmd/pimoe/internal/table"
	"github.com/pimoe/pimoe/server/cost"
)

// csvOutput is the annotation of a command whose --output may also be csv.
const csvOutput = "pimoe_csv_output"

func (a *app) report() *cobra.Command {
	var admin string
	c := group("report", "Say what a running server costs, and which size would suit its load", a.reportCost(&admin), a.reportSize(&admin))
	c.PersistentFlags().StringVar(&admin, "admin", "", "`URL` of the admin API; default: the configured address")
	return c
}

// prices turn figures into money.
type prices struct{ cpuHour, kwh float64 }

const (
	joulesPerKWh   = 3.6e6
	secondsPerHour = 3600
)

func (p prices) of(f cost.Figures) float64 {
	sum := f.CPUSeconds / secondsPerHour * p.cpuHour
	if f.Joules != nil {
		sum += *f.Joules / joulesPerKWh * p.kwh
	}
	return sum
}

func (p prices) asked() bool { return p.cpuHour > 0 || p.kwh > 0 }

func (a *app) reportCost(admin *string) *cobra.Command {
	var p prices
	c := &cobra.Command{
		Use: "cost", Short: "Show CPU time, weights read and energy by tenant and by expert group, in all and for 1,000 tokens", Args: cobra.NoArgs,
		Long: `Show what a running server has used since its start: CPU time, bytes of weights that were read and, where the
processor's energy counters can be read, joules; by tenant, and by part: the host, the router and each expert group.
What is used between two looks, ten a second, is shared by the tokens that were computed in between; what is used
while nothing is computed is the tenant "(idle)". The tenants add up to what was measured. Bytes are counted by calls
and steps, not at the memory: a cache may have had them.`,
		Example: `  pimoe report cost
  pimoe report cost --price-per-cpu-hour 0.04 --price-per-kwh 0.30
  pimoe report cost -o csv`,
		Annotations: map[string]string{csvOutput: "yes"},
		RunE: func(c *cobra.Command, _ []string) error {
			if p.cpuHour < 0 || p.kwh < 0 {
				return usageError{fmt.Errorf("report cost: a price is negative")}
			}
			base, err := a.adminURL(c, *admin)
			if err != nil {
				return err
			}
			body, err := a.get(c.Context(), base+"/admin/report/cost")
			if err != nil {
				return err
			}
			var r cost.Report
			if err := json.Unmarshal(body, &r); err != nil {
				return fmt.Errorf("answer of the admin API: %w", err)
			}
			switch a.output {
			case "json":
				return table.JSON(a.out, priced(r, p))
			case "csv":
				return a.costCSV(r, p)
			}
			return a.printCosts(r, p)
		},
	}
	c.Flags().Float64Var(&p.cpuHour, "price-per-cpu-hour", 0, "`price` of an hour of one core; adds a column")
	c.Flags().Float64Var(&p.kwh, "price-per-kwh", 0, "`price` of a kilowatt hour; adds to it")
	return c
}

// priced is the report with what it comes to; without prices the report as it is.
func priced(r cost.Report, p prices) any {
	if !p.asked() {
		return r
	}
	by := map[string]float64{}
	for _, t := range r.Tenants {
		by[t.Name] = p.of(t.Figures)
	}
	return struct {
		cost.Report
		Price    float64            `json:"price"`
		ByTenant map[string]float64 `json:"price_by_tenant"`
	}{r, p.of(r.Total), by}
}

// costColumns are the columns of both tables behind the name.
func costColumns(f cost.Figures, per *cost.Figures) []string {
	dash := func(j *float64) string {
		if j == nil {
			return "-"
		}
		return fmt.Sprintf("%.1f", *j)
	}
	out := []string{fmt.Sprintf("%.3f", f.CPUSeconds), progress.Size(f.ReadBytes), dash(f.Joules)}
	if per == nil {
		return append(out, "-", "-", "-")
	}
	return append(out, fmt.Sprintf("%.4f", per.CPUSeconds), progress.Size(per.ReadBytes), dash(per.Joules))
}

var costHeader = []string{"CPU S", "READ", "JOULES", "CPU S/1K", "READ/1K", "J/1K"}

func (a *app) printCosts(r cost.Report, p prices) error {
	price := func(row []string, f cost.Figures) []string {
		if !p.asked() {
			return row
		}
		return append(row, fmt.Sprintf("%.6f", p.of(f)))
	}
	header := func(names ...string) []string {
		out := append(names, costHeader...)
		if p.asked() {
			out = append(out, "PRICE")
		}
		return out
	}
	fmt.Fprintf(a.out, "%s: %d tokens computed in %.0f s\n\n", r.Model, r.Tokens, r.Seconds)
	var rows [][]string
	for _, t := range r.Tenants {
		rows = append(rows, price(append([]string{t.Name, strconv.FormatInt(t.Tokens, 10)}, costColumns(t.Figures, t.Per1000)...), t.Figures))
	}
	rows = append(rows, price(append([]string{"all", strconv.FormatInt(r.Tokens, 10)}, costColumns(r.Total, r.Per1000)...), r.Total))
	if err := table.Write(a.out, header("TENANT", "TOKENS"), rows); err != nil {
		return err
	}
	fmt.Fprintln(a.out)
	rows = nil
	for _, e := range r.Parts {
		rows = append(rows, price(append([]string{e.Name}, costColumns(e.Figures, e.Per1000)...), e.Figures))
	}
	if err := table.Write(a.out, header("PART"), rows); err != nil {
		return err
	}
	if r.Energy != "" {
		fmt.Fprintf(a.out, "\nno joules: %s\n", r.Energy)
	}
	return nil
}

// costCSV is one line for each tenant and part, so that a sheet can add them up any way.
func (a *app) costCSV(r cost.Report, p prices) error {
	w := csv.NewWriter(a.out)
	head := []string{"model", "tenant", "tokens", "part", "cpu_seconds", "read_bytes", "joules"}
	if p.asked() {
		head = append(head, "price")
	}
	lines := [][]string{head}
	for _, t := range r.Tenants {
		for _, e := range t.Parts {
			joules := ""
			if e.Joules != nil {
				joules = strconv.FormatFloat(*e.Joules, 'g', -1, 64)
			}
			line := []string{r.Model, t.Name, strconv.FormatInt(t.Tokens, 10), e.Name, strconv.FormatFloat(e.CPUSeconds, 'f', 9, 64), strconv.FormatInt(e.ReadBytes, 10), joules}
			if p.asked() {
				line = append(line, strconv.FormatFloat(p.of(e.Figures), 'g', -1, 64))
			}
			lines = append(lines, line)
		}
	}
	if err := w.WriteAll(lines); err != nil {
		return fmt.Errorf("write CSV: %w", err)
	}
	return nil
}

func (a *app) reportSize(admin *string) *cobra.Command {
	return &cobra.Command{
		Use: "size", Short: "Advise on cores, processes, replicas and memory, from the load that a running server has measured", Args: cobra.NoArgs,
		Long: `Advise on cores, processes, replicas, the cache of keys and values and memory, each with its arithmetic, from what
a running server has measured since its start: the busiest minute, the most requests that ran and waited, the most of
the cache that was in use, and the memory of every process. It changes nothing. Ask it after the busiest hour.`,
		RunE: func(c *cobra.Command, _ []string) error {
			base, err := a.adminURL(c, *admin)
			if err != nil {
				return err
			}
			body, err := a.get(c.Context(), base+"/admin/report/size")
			if err != nil {
				return err
			}
			var r struct {
				Minutes float64       `json:"minutes"`
				Advice  []cost.Advice `json:"advice"`
			}
			if err := json.Unmarshal(body, &r); err != nil {
				return fmt.Errorf("answer of the admin API: %w", err)
			}
			if a.output == "json" {
				_, err := fmt.Fprintf(a.out, "%s\n", body)
				return err
			}
			fmt.Fprintf(a.out, "measured over %.1f minutes\n\n", r.Minutes)
			var rows [][]string
			for _, v := range r.Advice {
				mark := "keep"
				if v.Change {
					mark = "change"
				}
				rows = append(rows, []string{mark, v.What, v.Now, v.Advised, v.Why})
			}
			return table.Write(a.out, []string{"", "WHAT", "NOW", "ADVISED", "WHY"}, rows)
		},
	}
}

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

// What --by takes.
const (
	byTenant = "tenant"
	byExpert = "expert"
)

func (p prices) asked() bool { return p.cpuHour > 0 || p.kwh > 0 }

func (a *app) reportCost(admin *string) *cobra.Command {
	var p prices
	by := byTenant
	c := &cobra.Command{
		Use: "cost", Short: "Show CPU time, weights read and energy by tenant, expert group or expert, in all and for 1,000 tokens", Args: cobra.NoArgs,
		Long: `Show what a running server has used since its start: CPU time, bytes of weights that were read and, where the
processor's energy counters can be read, joules; by tenant, and by part: the host, the router and each expert group;
with --by expert instead by expert of each layer, the dearest metrics.units of them, whose rows add up to their group's.
What is used between two looks, ten a second, is shared by the tokens that were computed in between; what is used
while nothing is computed is the tenant "(idle)". The tenants add up to what was measured. Bytes are counted by calls
and steps, not at the memory: a cache may have had them.`,
		Example: `  pimoe report cost
  pimoe report cost --by expert
  pimoe report cost --price-per-cpu-hour 0.04 --price-per-kwh 0.30
  pimoe report cost -o csv`,
		Annotations: map[string]string{csvOutput: "yes"},
		RunE: func(c *cobra.Command, _ []string) error {
			if p.cpuHour < 0 || p.kwh < 0 {
				return usageError{fmt.Errorf("report cost: a price is negative")}
			}
			if by != byTenant && by != byExpert {
				return usageError{fmt.Errorf("report cost: --by %s: want %s or %s", by, byTenant, byExpert)}
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
			switch {
			case a.output == "json":
				return table.JSON(a.out, priced(r, p))
			case a.output == "csv" && by == byExpert:
				return a.unitCSV(r, p)
			case a.output == "csv":
				return a.costCSV(r, p)
			case by == byExpert:
				return a.printUnitCosts(r, p)
			}
			return a.printCosts(r, p)
		},
	}
	c.Flags().StringVar(&by, "by", by, "tables by `tenant` and part, or by expert; JSON has both")
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

// row is a row of a table: names, then what something has cost.
func (p prices) row(f cost.Figures, per *cost.Figures, names ...string) []string {
	out := append(names, costColumns(f, per)...)
	if p.asked() {
		out = append(out, fmt.Sprintf("%.6f", p.of(f)))
	}
	return out
}

// header is above such rows.
func (p prices) header(names ...string) []string {
	out := append(names, costHeader...)
	if p.asked() {
		out = append(out, "PRICE")
	}
	return out
}

func (a *app) printCosts(r cost.Report, p prices) error {
	var tenants, parts [][]string
	for _, t := range r.Tenants {
		tenants = append(tenants, p.row(t.Figures, t.Per1000, t.Name, strconv.FormatInt(t.Tokens, 10)))
	}
	tenants = append(tenants, p.row(r.Total, r.Per1000, "all", strconv.FormatInt(r.Tokens, 10)))
	for _, e := range r.Parts {
		parts = append(parts, p.row(e.Figures, e.Per1000, e.Name))
	}
	a.beginCosts(r)
	if err := table.Write(a.out, p.header("TENANT", "TOKENS"), tenants); err != nil {
		return err
	}
	fmt.Fprintln(a.out)
	if err := table.Write(a.out, p.header("PART"), parts); err != nil {
		return err
	}
	a.endCosts(r)
	return nil
}

func (a *app) printUnitCosts(r cost.Report, p prices) error {
	var rows [][]string
	for _, u := range r.Experts {
		layer, expert := unitNames(u)
		rows = append(rows, p.row(u.Figures, u.Per1000, u.Group, layer, expert, strconv.FormatInt(u.Rows, 10)))
	}
	a.beginCosts(r)
	if err := table.Write(a.out, p.header("GROUP", "LAYER", "EXPERT", "ROWS"), rows); err != nil {
		return err
	}
	a.endCosts(r)
	return nil
}

// unitNames are the layer and the expert of a unit, or what stands for several.
func unitNames(u cost.UnitCost) (layer, expert string) {
	if u.Layer == nil || u.Expert == nil {
		return "", u.Rest
	}
	return strconv.Itoa(*u.Layer), strconv.Itoa(*u.Expert)
}

func (a *app) beginCosts(r cost.Report) {
	fmt.Fprintf(a.out, "%s: %d tokens computed in %.0f s\n\n", r.Model, r.Tokens, r.Seconds)
}

func (a *app) endCosts(r cost.Report) {
	if r.Energy != "" {
		fmt.Fprintf(a.out, "\nno joules: %s\n", r.Energy)
	}
}

// costCSV is one line for each tenant and part, so that a sheet can add them up any way.
func (a *app) costCSV(r cost.Report, p prices) error {
	lines := [][]string{p.csvHeader("model", "tenant", "tokens", "part")}
	for _, t := range r.Tenants {
		for _, e := range t.Parts {
			lines = append(lines, p.csvLine(e.Figures, r.Model, t.Name, strconv.FormatInt(t.Tokens, 10), e.Name))
		}
	}
	return a.writeCSV(lines)
}

// unitCSV is one line for each expert and what is left of its group.
func (a *app) unitCSV(r cost.Report, p prices) error {
	lines := [][]string{p.csvHeader("model", "group", "layer", "expert", "rows")}
	for _, u := range r.Experts {
		layer, expert := unitNames(u)
		lines = append(lines, p.csvLine(u.Figures, r.Model, u.Group, layer, expert, strconv.FormatInt(u.Rows, 10)))
	}
	return a.writeCSV(lines)
}

func (p prices) csvHeader(names ...string) []string {
	out := append(names, "cpu_seconds", "read_bytes", "joules")
	if p.asked() {
		out = append(out, "price")
	}
	return out
}

func (p prices) csvLine(f cost.Figures, names ...string) []string {
	joules := ""
	if f.Joules != nil {
		joules = strconv.FormatFloat(*f.Joules, 'g', -1, 64)
	}
	out := append(names, strconv.FormatFloat(f.CPUSeconds, 'f', 9, 64), strconv.FormatInt(f.ReadBytes, 10), joules)
	if p.asked() {
		out = append(out, strconv.FormatFloat(p.of(f), 'g', -1, 64))
	}
	return out
}

func (a *app) writeCSV(lines [][]string) error {
	if err := csv.NewWriter(a.out).WriteAll(lines); err != nil {
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

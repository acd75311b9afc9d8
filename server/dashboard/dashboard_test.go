package dashboard

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"
)

// Every page is one that Grafana can read: ids and places that differ, a unit and a query in each panel, the variable for the
// source in all of them.
func TestPages(t *testing.T) {
	uids := map[string]bool{}
	for _, d := range All() {
		if uids[d.UID] || !regexp.MustCompile(`^[a-z-]{1,40}$`).MatchString(d.UID) {
			t.Errorf("uid %q", d.UID)
		}
		uids[d.UID] = true
		text, err := d.JSON()
		if err != nil {
			t.Fatal(err)
		}
		var page struct {
			UID    string
			Panels []struct {
				ID      int
				Type    string
				Title   string
				GridPos struct{ X, Y, W, H int }
				Targets []struct {
					Expr       string
					Datasource struct{ UID string }
				}
				FieldConfig struct{ Defaults struct{ Unit string } }
			}
			Templating struct{ List []struct{ Name string } }
		}
		if err := json.Unmarshal(text, &page); err != nil {
			t.Fatal(err)
		}
		if page.UID != d.UID || len(page.Templating.List) != 2 || page.Templating.List[0].Name != "datasource" {
			t.Errorf("%s: uid %q, variables %v", d.UID, page.UID, page.Templating.List)
		}
		queries, ids, titles := 0, map[int]bool{}, map[string]bool{}
		taken := map[[2]int]string{}
		for _, p := range page.Panels {
			title := p.Type + p.Title
			if ids[p.ID] || titles[title] || p.Title == "" {
				t.Errorf("%s: panel %d %q is there twice", d.UID, p.ID, p.Title)
			}
			ids[p.ID], titles[title] = true, true
			for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
				for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
					if other := taken[[2]int{x, y}]; other != "" || x >= columns {
						t.Fatalf("%s: %q lies over %q, or beside the page", d.UID, p.Title, other)
					}
					taken[[2]int{x, y}] = p.Title
				}
			}
			if p.Type == "row" {
				continue
			}
			if len(p.Targets) == 0 || p.FieldConfig.Defaults.Unit == "" {
				t.Errorf("%s: %q has no query or no unit", d.UID, p.Title)
			}
			for _, q := range p.Targets {
				queries++
				if q.Datasource.UID != "${datasource}" || !strings.Contains(q.Expr, `instance=~"$instance"`) {
					t.Errorf("%s: %q asks %q for %q", d.UID, p.Title, q.Datasource.UID, q.Expr)
				}
			}
		}
		if queries != len(d.Queries()) || queries < 10 {
			t.Errorf("%s: %d queries, %d expected", d.UID, queries, len(d.Queries()))
		}
	}
}

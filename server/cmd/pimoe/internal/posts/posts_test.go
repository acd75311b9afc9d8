package posts

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// slowly answers JSON and binary requests of 2 rows of 3 numbers, JSON more slowly, and counts both.
type slowly struct{ json, binary atomic.Int64 }

func (s *slowly) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b, err := io.ReadAll(r.Body)
	if err != nil || r.Header.Get("Authorization") != "Bearer k" {
		http.Error(w, "no", http.StatusUnauthorized)
		return
	}
	if r.Header.Get("Content-Type") == "application/octet-stream" && r.Header.Get("X-Tensor-Shape") == "1,2,3" && len(b) == 24 {
		s.binary.Add(1)
		w.Write(b)
		return
	}
	var in struct {
		Tensor [][][]float32 `json:"input_tensor"`
	}
	if json.Unmarshal(b, &in) != nil || len(in.Tensor) != 1 || len(in.Tensor[0]) != 2 || len(in.Tensor[0][1]) != 3 {
		http.Error(w, "no", http.StatusBadRequest)
		return
	}
	s.json.Add(1)
	time.Sleep(5 * time.Millisecond)
	w.Write(b)
}

func TestRun(t *testing.T) {
	s := &slowly{}
	server := httptest.NewServer(s)
	defer server.Close()
	var sides []Side
	for _, text := range []string{"slow=" + server.URL, "fast=binary:" + server.URL} {
		side, err := ParseSide(text)
		if err != nil {
			t.Fatal(err)
		}
		sides = append(sides, side)
	}
	o := Options{Sides: sides, Rows: 2, Hidden: 3, Clients: []int{1, 2}, Rounds: 3, For: 50 * time.Millisecond, Warm: 5 * time.Millisecond, Key: "k"}
	results, err := Run(context.Background(), o)
	if err != nil || len(results) != 4 {
		t.Fatalf("%v %v", results, err)
	}
	for i, r := range results {
		if want := 1 + i/2; r.Clients != want || len(r.Rounds) != 3 || r.RPS <= 0 || r.P95 < r.P50 || r.Side.Binary != (i%2 == 1) {
			t.Errorf("%+v", r)
		}
		if (r.Ratio > 1) != (i%2 == 1) || r.Low > r.Ratio || r.High < r.Ratio {
			t.Errorf("ratio of %+v", r)
		}
	}
	if s.json.Load() == 0 || s.binary.Load() < 2*s.json.Load() {
		t.Errorf("%d JSON and %d binary requests", s.json.Load(), s.binary.Load())
	}
	o.Key = "wrong"
	if _, err := Run(context.Background(), o); err == nil || !strings.Contains(err.Error(), "status 401") {
		t.Errorf("with a wrong key: %v", err)
	}
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Run(gone, o); err == nil {
		t.Error("a cancelled run has a result")
	}
	for _, bad := range []string{"", "x", "=http://a/", "x=ftp://a/"} {
		if _, err := ParseSide(bad); err == nil {
			t.Errorf("side %q is taken", bad)
		}
	}
}

// Package committed reads the rendered manifests of this tree as the cluster would: strictly, as the types of the Kubernetes
// API. The tests of this module use it. It refuses to mend or to ignore what it reads: every finding fails the test.
package committed

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	apps "k8s.io/api/apps/v1"
	autoscaling "k8s.io/api/autoscaling/v2"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	policy "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kube "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	serializer "k8s.io/apimachinery/pkg/runtime/serializer/json"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
)

// Deploy is the folder with what the default values give.
func Deploy(t testing.TB) string { return filepath.Join(root(t), "deploy") }

// root is the tree's: a folder above the working one, that of the package under test.
func root(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "deploy", "kube")); err == nil {
			return dir
		}
		if dir == filepath.Dir(dir) {
			t.Fatal("no folder above this one has deploy/kube")
		}
	}
}

// Deployment is one set of rendered manifests with the chart's values that belong to it.
type Deployment struct {
	Name, Namespace string
	Manifests       []byte
	Values          string // path
	Rules           bool   // it was rendered with alerting rules
}

// All are the committed ones: deploy/kube, and the cases of server/deploy/kube/testdata.
func All(t testing.TB) []Deployment {
	t.Helper()
	dir := Deploy(t)
	all := []Deployment{{Name: "deploy", Manifests: Folder(t, dir+"/kube", dir+"/kube/monitoring"), Values: dir + "/helm/pimoe/values.yaml"}}
	dirs, err := filepath.Glob(root(t) + "/server/deploy/kube/testdata/*")
	if err != nil || len(dirs) < 5 {
		t.Fatalf("cases: %v %v", dirs, err)
	}
	for _, dir := range dirs {
		all = append(all, Deployment{Name: filepath.Base(dir), Manifests: read(t, dir+"/manifests.yaml"), Values: dir + "/values.yaml", Rules: true})
	}
	for i := range all {
		for _, o := range Decode(t, all[i].Manifests) {
			if ns, ok := o.(*core.Namespace); ok {
				all[i].Namespace = ns.Name
			}
		}
	}
	return all
}

// Folder is the YAML files of some folders as one stream; folders below them are left out, as by kubectl apply -f.
func Folder(t testing.TB, dirs ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	for _, dir := range dirs {
		names, err := filepath.Glob(dir + "/*.yaml")
		if err != nil || len(names) == 0 {
			t.Fatalf("%s: %v %v", dir, names, err)
		}
		for _, name := range names {
			b.WriteString("---\n")
			b.Write(read(t, name))
		}
	}
	return b.Bytes()
}

func read(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// InterceptorRoute and ScaledObject are KEDA's, as far as the manifests use them: http.keda.sh/v1beta1 and keda.sh/v1alpha1.
// Their own modules bring a controller along.
type InterceptorRoute struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`

	Spec struct {
		Target struct {
			Service string `json:"service"`
			Port    int32  `json:"port"`
		} `json:"target"`
		Timeouts struct {
			Readiness metav1.Duration `json:"readiness"`
		} `json:"timeouts"`
		Rules []struct {
			Hosts []string `json:"hosts"`
		} `json:"rules"`
		ScalingMetric struct {
			Concurrency struct {
				TargetValue int32 `json:"targetValue"`
			} `json:"concurrency"`
		} `json:"scalingMetric"`
	} `json:"spec"`
}

// ScaledObject says what KEDA scales, and by what.
type ScaledObject struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`

	Spec struct {
		ScaleTargetRef  autoscaling.CrossVersionObjectReference `json:"scaleTargetRef"`
		MinReplicaCount *int32                                  `json:"minReplicaCount"`
		MaxReplicaCount *int32                                  `json:"maxReplicaCount"`
		CooldownPeriod  *int32                                  `json:"cooldownPeriod"`
		Triggers        []struct {
			Type     string            `json:"type"`
			Metadata map[string]string `json:"metadata"`
		} `json:"triggers"`
	} `json:"spec"`
}

func (r *InterceptorRoute) DeepCopyObject() kube.Object { c := *r; return &c }
func (s *ScaledObject) DeepCopyObject() kube.Object     { c := *s; return &c }

// Strict decodes what the scheme knows and refuses fields that a type does not have, and keys given twice.
var Strict = func() kube.Decoder {
	s := kube.NewScheme()
	for _, add := range []func(*kube.Scheme) error{
		apps.AddToScheme, autoscaling.AddToScheme, core.AddToScheme, networking.AddToScheme, policy.AddToScheme, monitoring.AddToScheme,
	} {
		if err := add(s); err != nil {
			panic(err)
		}
	}
	s.AddKnownTypeWithName(schema.GroupVersionKind{Group: "http.keda.sh", Version: "v1beta1", Kind: "InterceptorRoute"}, &InterceptorRoute{})
	s.AddKnownTypeWithName(schema.GroupVersionKind{Group: "keda.sh", Version: "v1alpha1", Kind: "ScaledObject"}, &ScaledObject{})
	return serializer.NewSerializerWithOptions(serializer.DefaultMetaFactory, s, s, serializer.SerializerOptions{Yaml: true, Strict: true})
}()

// Documents splits a stream of YAML; those without a line that is no comment are left out.
func Documents(t testing.TB, stream []byte) [][]byte {
	t.Helper()
	var out [][]byte
	for r := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(stream))); ; {
		doc, err := r.Read()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(doc)) {
			if line = strings.TrimSpace(line); line != "" && line != "---" && !strings.HasPrefix(line, "#") {
				out = append(out, doc)
				break
			}
		}
	}
}

// Decode is the objects of a stream.
func Decode(t testing.TB, stream []byte) []kube.Object {
	t.Helper()
	var out []kube.Object
	for _, doc := range Documents(t, stream) {
		o, _, err := Strict.Decode(doc, nil, nil)
		if err != nil {
			t.Errorf("%v in\n%s", err, doc)
			continue
		}
		out = append(out, o)
	}
	return out
}

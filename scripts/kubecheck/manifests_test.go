package kubecheck

import (
	"fmt"
	"testing"

	core "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/pimoe/pimoe/scripts/kubecheck/committed"
)

// TestStrict: every manifest is one of the API's types and has no field that the type has not.
func TestStrict(t *testing.T) {
	for _, d := range committed.All(t) {
		all := committed.Decode(t, d.Manifests)
		if len(all) < 8 {
			t.Errorf("%s: %d objects", d.Name, len(all))
		}
		seen := map[string]bool{}
		for _, o := range all {
			m := o.(metav1.Object)
			name := fmt.Sprintf("%T %s", o, m.GetName())
			if seen[name] {
				t.Errorf("%s: %s twice", d.Name, name)
			}
			seen[name] = true
			if _, cluster := o.(*core.Namespace); !cluster && m.GetNamespace() != d.Namespace {
				t.Errorf("%s: %s is in namespace %q", d.Name, name, m.GetNamespace())
			}
		}
	}
	for what, doc := range map[string]string{
		"a field that is not there": "apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec: {port: 80}\n",
		"a key twice":               "apiVersion: v1\nkind: Service\nkind: Service\nmetadata: {name: x}\n",
		"an old version":            "apiVersion: autoscaling/v2beta2\nkind: HorizontalPodAutoscaler\nmetadata: {name: x}\n",
	} {
		if _, _, err := committed.Strict.Decode([]byte(doc), nil, nil); err == nil {
			t.Errorf("%s is taken", what)
		}
	}
}

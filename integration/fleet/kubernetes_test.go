package fleet

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/tagged-urls/caddy-tagged-urls/integration/harness"
)

// object is what the tests look at of one of Kubernetes' objects.
type object struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string
	Metadata   struct{ Name string }
	StringData map[string]string `yaml:"stringData"`
	Data       map[string]string
	Spec       struct {
		Template struct {
			Metadata struct{ Labels map[string]string }
			Spec     pod
		}
		VolumeClaimTemplates []struct{ Metadata struct{ Name string } } `yaml:"volumeClaimTemplates"`
		Selector             map[string]any
		Ports                []struct {
			TargetPort string `yaml:"targetPort"`
		}
	}
}

type pod struct {
	TerminationGracePeriodSeconds int `yaml:"terminationGracePeriodSeconds"`
	Containers                    []struct {
		EnvFrom []struct {
			SecretRef struct{ Name string } `yaml:"secretRef"`
		} `yaml:"envFrom"`
		Ports []struct {
			Name          string
			ContainerPort int `yaml:"containerPort"`
		}
		StartupProbe   probe `yaml:"startupProbe"`
		ReadinessProbe probe `yaml:"readinessProbe"`
		LivenessProbe  probe `yaml:"livenessProbe"`
		VolumeMounts   []struct {
			Name, MountPath string
		} `yaml:"volumeMounts"`
	}
	Volumes []struct {
		Name      string
		ConfigMap struct{ Name string } `yaml:"configMap"`
	}
}

type probe struct {
	Exec    struct{ Command []string }
	HTTPGet struct{ Path, Port string } `yaml:"httpGet"`
}

// manifests are the objects of one of the examples in docs/kubernetes.md, by
// kind.
func manifests(t *testing.T, with string) map[string]object {
	t.Helper()
	for _, code := range harness.CodeOf(t, "docs/kubernetes.md") {
		if !strings.Contains(code, "kind: "+with) {
			continue
		}
		objects := map[string]object{}
		for d := yaml.NewDecoder(bytes.NewReader([]byte(code))); ; {
			var o object
			if err := d.Decode(&o); errors.Is(err, io.EOF) {
				return objects
			} else if err != nil {
				t.Fatal(err)
			}
			objects[o.Kind] = o
		}
	}
	t.Fatalf("docs/kubernetes.md has no %s", with)
	return nil
}

// TestKubernetes starts the Caddyfiles of docs/kubernetes.md as their pods do,
// asks what the probes ask, and looks for what the objects say of each other.
func TestKubernetes(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"Deployment", "StatefulSet"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			objects := manifests(t, kind)
			spec := objects[kind].Spec
			pod := spec.Template.Spec
			container := pod.Containers[0]
			if container.EnvFrom[0].SecretRef.Name != objects["Secret"].Metadata.Name || pod.Volumes[0].ConfigMap.Name != objects["ConfigMap"].Metadata.Name {
				t.Error("the pod's secret or configuration isn't there")
			}
			if labels := fmt.Sprint(spec.Template.Metadata.Labels); fmt.Sprint(spec.Selector["matchLabels"]) != labels || fmt.Sprint(objects["Service"].Spec.Selector) != labels {
				t.Errorf("the labels %s aren't what is selected", labels)
			}
			volumes := []string{}
			for _, v := range pod.Volumes {
				volumes = append(volumes, v.Name)
			}
			for _, v := range spec.VolumeClaimTemplates {
				volumes = append(volumes, v.Metadata.Name)
			}
			for _, m := range container.VolumeMounts {
				if !slices.Contains(volumes, m.Name) {
					t.Errorf("there is no volume %s", m.Name)
				}
			}

			site := harness.StartUpstream(t)
			trk := harness.StartTracker(t)
			vars := harness.Vars(objects["Secret"].StringData)
			c := harness.NewCaddy(t, buildCaddy, vars)
			moved := map[int]int{8080: c.Port, 8081: harness.FreePort(t)}
			ports := map[string]int{}
			for _, p := range container.Ports {
				ports[p.Name] = moved[p.ContainerPort]
			}
			replace := []string{"persist_config off", "persist_config off\n\tadmin " + c.Admin, "site:3000", site.Addr,
				"shutdown_drain off", "shutdown_drain off\n\tqueue_timeout 20s", "tagged_urls {\n\t\tsecret", "tagged_urls {\n\t\tqueue_timeout 20s\n\t\tsecret",
				"tagged_urls {env.KISSMETRICS_API_KEY}", "tagged_urls {\n\ttracker kissmetrics {env.KISSMETRICS_API_KEY} {\n\tendpoint " + trk.URL + "\n\t}\n\t}"}
			for from, to := range moved {
				replace = append(replace, fmt.Sprintf("http://:%d", from), fmt.Sprintf("http://:%d", to))
			}
			if kind == "Deployment" {
				replace = append(replace, "nats://caddy:{env.NATS_PASSWORD}@nats:4222", harness.StartNATS(t, "").URL, "queue nats {", "queue nats {\n\treplicas 1\n\tstream kubernetes")
			}
			c.Caddyfile = strings.NewReplacer(replace...).Replace(objects["ConfigMap"].Data["Caddyfile"])
			c.Start()

			if command := container.StartupProbe.Exec.Command; (len(command) > 0) != (kind == "Deployment") {
				t.Errorf("the startup probe is %q", command)
			} else if len(command) > 0 {
				binary, env := c.Command()
				harness.Eventually(t, "the startup probe to succeed", func() bool {
					probe := exec.CommandContext(t.Context(), binary, append(command[1:], "--address", c.Admin)...)
					probe.Env = append(os.Environ(), env...)
					return probe.Run() == nil
				})
			}
			for _, probe := range []probe{container.ReadinessProbe, container.LivenessProbe} {
				harness.Eventually(t, fmt.Sprintf("a probe of %v to succeed", probe), func() bool {
					p := harness.NewVisitor(t).Get(fmt.Sprintf("http://%s%s", harness.Loopback(ports[probe.HTTPGet.Port]), probe.HTTPGet.Path))
					return p.Status == http.StatusOK
				})
			}
			if ports[objects["Service"].Spec.Ports[0].TargetPort] != c.Port {
				t.Error("the service doesn't lead to the site")
			}
			if p := harness.NewVisitor(t).Open(c.URL + "/?kme=Visited&kmi=ann"); p.Status != http.StatusOK {
				t.Errorf("%d %s", p.Status, p.Body)
			}
			expect(t, trk, c, []string{"ann"}, "/e person=ann name=Visited")
			if metrics := harness.NewVisitor(t).Get(fmt.Sprintf("http://%s/metrics", harness.Loopback(ports["probes"]))); !strings.Contains(metrics.Body, "caddy_tagged_urls_deliveries_total") {
				t.Error("no metrics beside the probes")
			}
		})
	}
}

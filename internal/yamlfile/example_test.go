package yamlfile_test

import (
	"fmt"
	"time"

	"github.com/freshwire/freshwire/internal/yamlfile"
)

func Example() {
	var cfg struct {
		Sources map[string]struct {
			CMS       string        `yaml:"cms" required:"true" enum:"ghost,generic"`
			Secret    string        `yaml:"secret" secret:"true"`
			Tolerance time.Duration `yaml:"tolerance" default:"5m"`
		} `yaml:"sources"`
	}
	env := func(name string) (string, bool) { return "", false }
	err := yamlfile.Decode("freshwire.yaml", []byte("sources:\n  blog:\n    cms: gohst\n    secrt: ${BLOG_SECRET}\n    tolerance: soon\n"), &cfg, env)
	fmt.Println(err)
	// Output:
	// freshwire.yaml:3:10: sources.blog.cms: "gohst" is not known; did you mean "ghost"?
	// freshwire.yaml:4:5: sources.blog: unknown key "secrt"; did you mean "secret"?
	// freshwire.yaml:5:16: sources.blog.tolerance: expected a duration such as "5m", got "soon"
}

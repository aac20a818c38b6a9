package yamlfile

import (
	"regexp"
	"strings"
)

var variable = regexp.MustCompile(`\$?\$\{([A-Za-z_][A-Za-z0-9_]*)(:-[^}]*)?\}|\$\$\{`)

// expand replaces the variables in a value. It reports whether there were any,
// and false when one is missing, which it tells as a mistake.
func (d *decoder) expand(n *node, path string) (text string, expanded, ok bool) {
	if !strings.Contains(n.text, "${") {
		return n.text, false, true
	}
	ok = true
	if rest := variable.ReplaceAllString(n.text, ""); strings.Contains(rest, "${") {
		d.mistake(n, path, "${ begins a variable such as ${NAME} or ${NAME:-default}; write $${ for these characters themselves")
		return "", false, false
	}
	text = variable.ReplaceAllStringFunc(n.text, func(m string) string {
		if strings.HasPrefix(m, "$$") {
			return m[1:]
		}
		expanded = true
		name, def, hasDefault := strings.Cut(m[2:len(m)-1], ":-")
		value, set := d.getenv(name)
		switch {
		case hasDefault && value == "":
			value = def
		case !set && !hasDefault:
			d.mistake(n, path, "environment variable %s is not set; use ${%s:-default} to allow that", name, name)
			ok = false
		}
		if d.grown += len(value); d.grown > 8*MaxBytes {
			return ""
		}
		return value
	})
	if ok && (len(text) > MaxValue || d.grown > 8*MaxBytes) {
		d.mistake(n, path, "more than %d bytes after variables were replaced", MaxValue)
		ok = false
	}
	return text, expanded, ok
}

package rules

import (
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/expr-lang/expr"
	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/builtin"
	"github.com/expr-lang/expr/conf"
	"github.com/expr-lang/expr/file"
	"github.com/expr-lang/expr/types"
	"github.com/expr-lang/expr/vm"
)

// Bounds of one expression.
const (
	maxSource = 4096    // bytes of its text
	maxNodes  = 1000    // of its tree
	maxWork   = 1 << 20 // elements, and pieces of 16 bytes of text, that it reads in one run
	maxBuilt  = 1 << 20 // bytes of a text that replace or join build
)

// names are the texts that expressions see, beside payload.
var names = []string{"id", "type", "action", "event", "slug", "previous_slug", "locale", "source", "environment", "version"}

// budgetName cannot be written in an expression: names have no spaces.
const budgetName = " budget"

var environment = func() types.Map {
	m := types.Map{"payload": types.Any, budgetName: types.Any}
	for _, n := range names {
		m[n] = types.String
	}
	return m
}()

// expression is a compiled one, with what it reads of the event.
type expression struct {
	program  *vm.Program
	payload  bool
	slug     bool
	constant bool // reads nothing of the event
}

// compileExpr compiles source. It is compiled twice: once as it stands, for
// mistakes and against the type that is wanted, and once with its reads
// counted, to be run.
func compileExpr(source string, want ...expr.Option) (*expression, error) {
	switch {
	case strings.TrimSpace(source) == "":
		return nil, errors.New("an empty expression")
	case len(source) > maxSource:
		return nil, fmt.Errorf("an expression of %d bytes, at most %d", len(source), maxSource)
	}
	opts := []expr.Option{
		expr.Env(environment), expr.MaxNodes(maxNodes), bounded,
		expr.DisableBuiltin("now"), expr.DisableBuiltin("timezone"), expr.DisableBuiltin("repeat"),
		expr.Patch(emptyIsMissing{}),
	}
	checked, err := expr.Compile(source, append(want, opts...)...)
	if err != nil {
		return nil, compileError(err)
	}
	e := &expression{constant: true}
	root := checked.Node()
	ast.Walk(&root, reads{e})
	e.program, err = expr.Compile(source, append(opts, expr.MaxNodes(4*maxNodes), expr.Patch(countReads{}))...)
	if err != nil {
		return nil, compileError(err)
	}
	return e, nil
}

// run evaluates e over an environment made by newEnv.
func (e *expression) run(env map[string]any) (any, error) {
	env[budgetName].(*budget).left = maxWork
	out, err := vm.Run(e.program, env)
	if err != nil {
		var fe *file.Error
		if errors.As(err, &fe) {
			err = errors.New(fe.Message)
		}
		return nil, err
	}
	return out, nil
}

// compileError says in one line what the library says in four.
func compileError(err error) error {
	var fe *file.Error
	if !errors.As(err, &fe) {
		return err
	}
	if fe.Line > 1 {
		return fmt.Errorf("line %d, character %d: %s", fe.Line, fe.Column+1, fe.Message)
	}
	return fmt.Errorf("character %d: %s", fe.Column+1, fe.Message)
}

// reads notes what of the event an expression reads.
type reads struct{ e *expression }

func (r reads) Visit(node *ast.Node) {
	id, ok := (*node).(*ast.IdentifierNode)
	if !ok {
		return
	}
	all := id.Value == "$env"
	if _, ok := environment[id.Value]; ok || all {
		r.e.constant = false
		r.e.payload = r.e.payload || all || id.Value == "payload"
		r.e.slug = r.e.slug || all || id.Value == "slug"
	}
}

// emptyIsMissing lets ?? take its right side for a text that the event lacks:
// these are "" and never nil.
type emptyIsMissing struct{}

func (emptyIsMissing) Visit(node *ast.Node) {
	b, ok := (*node).(*ast.BinaryNode)
	if !ok || b.Operator != "??" {
		return
	}
	id, ok := b.Left.(*ast.IdentifierNode)
	if !ok || environment[id.Value] != types.String {
		return
	}
	ast.Patch(node, &ast.ConditionalNode{
		Cond: &ast.BinaryNode{Operator: "!=", Left: b.Left, Right: &ast.StringNode{}},
		Exp1: b.Left, Exp2: b.Right,
	})
}

// budget is what a run may still read.
type budget struct{ left int }

// spend is called by expressions with each value that they read and with
// their budget: a loop within a loop over a payload ends early instead of late.
func spend(args ...any) (any, error) {
	cost := 1
	switch v := args[0].(type) {
	case string:
		cost += len(v) / 16
	case []any:
		cost += len(v)
	case map[string]any:
		cost += len(v)
	case nil, bool, int, float64:
	default:
		if r := reflect.ValueOf(v); r.Kind() == reflect.Slice || r.Kind() == reflect.Map {
			cost += r.Len()
		}
	}
	b := args[1].(*budget)
	if b.left -= cost; b.left < 0 {
		return nil, errors.New("too much work for one expression")
	}
	return args[0], nil
}

const spendName = " spend"

// countReads puts spend around every value that comes out of the payload, a
// loop or a variable.
type countReads struct{}

func (countReads) Visit(node *ast.Node) {
	switch n := (*node).(type) {
	case *ast.IdentifierNode:
		if n.Value == budgetName || n.Value == spendName || n.Value == "$env" || environment[n.Value] == types.String {
			return
		}
		if _, isFunc := builtin.Index[n.Value]; isFunc {
			return
		}
	case *ast.PointerNode, *ast.ChainNode:
	case *ast.MemberNode:
		unwrap(&n.Node) // the last of a.b.c is the one that is used
	default:
		return
	}
	if c, ok := (*node).(*ast.ChainNode); ok {
		unwrap(&c.Node)
	}
	call := &ast.CallNode{Callee: &ast.IdentifierNode{Value: spendName},
		Arguments: []ast.Node{*node, &ast.IdentifierNode{Value: budgetName}}}
	call.SetNature(*(*node).Nature()) // what is known of its type stays known
	ast.Patch(node, call)
}

func unwrap(node *ast.Node) {
	if c, ok := (*node).(*ast.CallNode); ok {
		if id, ok := c.Callee.(*ast.IdentifierNode); ok && id.Value == spendName {
			*node = c.Arguments[0]
		}
	}
}

// bounded adds spend, and replaces the built-in functions whose result or time
// can be far larger than what they read.
func bounded(c *conf.Config) {
	c.Functions[spendName] = &builtin.Function{Name: spendName, Func: spend, Types: []reflect.Type{reflect.TypeFor[func(any, any) any]()}}
	for name, size := range map[string]func(args []any) int{
		"replace": func(args []any) int {
			s, old, with := text(args, 0), text(args, 1), text(args, 2)
			return len(s) + strings.Count(s, old)*len(with)
		},
		"join": func(args []any) int {
			n, v := 0, reflect.ValueOf(args[0])
			if v.Kind() != reflect.Slice {
				return 0
			}
			for i := range v.Len() {
				s, _ := v.Index(i).Interface().(string)
				n += len(s) + len(text(args, 1))
			}
			return n
		},
		"uniq": func(args []any) int { // it compares each with each
			if v := reflect.ValueOf(args[0]); v.Kind() == reflect.Slice {
				return v.Len() * v.Len() / 16
			}
			return 0
		},
	} {
		own := *builtin.Builtins[builtin.Index[name]]
		run := own.Func
		own.Func = func(args ...any) (any, error) {
			if len(args) > 0 && size(args) > maxBuilt {
				return nil, fmt.Errorf("%s: too much work for one expression", name)
			}
			return run(args...)
		}
		c.Functions[name] = &own
	}
}

func text(args []any, i int) string {
	if i >= len(args) {
		return ""
	}
	s, _ := args[i].(string)
	return s
}

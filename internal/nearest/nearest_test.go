package nearest

import "testing"

func TestNearestWord(t *testing.T) {
	known := []string{"secret", "scheme", "tags", "keys", "id", "ghost"}
	for word, want := range map[string]string{
		"secrt": "secret", "SECRET": "secret", "tgas": "tags", "gohst": "ghost", "shceme": "scheme",
		"idd": "id", "x": "", "password": "", "": "",
	} {
		if got := Word(word, known); got != want {
			t.Errorf("Word(%q) = %q, want %q", word, got, want)
		}
	}
}

func FuzzWord(f *testing.F) {
	f.Add("secrt", "secret")
	f.Fuzz(func(t *testing.T, a, b string) {
		if d := distance(a, b); d != distance(b, a) || (d == 0) != (a == b) && len(a) <= 64 && len(b) <= 64 {
			t.Errorf("distance(%q, %q) = %d", a, b, d)
		}
	})
}

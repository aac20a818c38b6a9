package webhook

import (
	"fmt"
	"strings"
	"testing"
)

func BenchmarkVerify(b *testing.B) {
	for _, size := range []int{1 << 10, 64 << 10, 1 << 20} {
		b.Run(fmt.Sprintf("bytes=%d", size), func(b *testing.B) {
			src := source(b, SourceConfig{CMS: "ghost", Secret: testSecret})
			item := `{"id":"12345678","name":"a name of some length"},`
			body := `{"post":{"current":{"id":"1","slug":"a","tags":[` + strings.Repeat(item, size/len(item)) + `{}]},"previous":{}}}`
			d, err := src.Sign([]byte(body), "", noon)
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				if res := src.Verify(d, noon); !res.Valid() {
					b.Fatal(res.Err)
				}
			}
		})
	}
}

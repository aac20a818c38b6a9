// Package demo is the small CMS that `freshwire dev` brings along: a handful
// of articles in memory, a JSON API, an edit endpoint, and webhooks that it
// signs and posts itself, as a real CMS does.
//
// New returns a CMS that is an http.Handler for everything under /_demo/; its
// Run posts the webhooks. The API is slow on purpose, so that a person can see
// a cache answer before it.
//
// What an edit's answer says is stored before its webhook leaves, and webhooks
// leave in the order of the edits, each repeated until it is accepted.
package demo

import (
	"cmp"
	"encoding/json"
	"errors"
	"log/slog"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"
)

// Article is one piece of content, as the API gives it.
type Article struct {
	ID        string    `json:"id"`
	Slug      string    `json:"slug"` // fixed when the article is created, as links to it are
	Title     string    `json:"title"`
	Body      string    `json:"body"` // paragraphs, an empty line between them
	UpdatedAt time.Time `json:"updatedAt"`
	Version   int       `json:"version"` // 1 for a new article, one more for each edit
}

// Limits of what an editor may send. Text is counted in characters.
const (
	MaxTitle    = 200
	MaxBody     = 20_000
	MaxArticles = 100
	maxRequest  = 128 << 10 // bytes
)

// Errors of an edit; replies says how each is answered.
var (
	ErrUnknown = errors.New("demo: no such article")
	ErrText    = errors.New("demo: a title of 1 to 200 characters and a body of 1 to 20000 are needed")
	ErrFull    = errors.New("demo: no room for another article")
	ErrBehind  = errors.New("demo: too many webhooks wait for delivery")
	errMedia   = errors.New("demo: send JSON or a form")
	errSyntax  = errors.New("demo: the body cannot be read")
)

// Config of a CMS. WebhookURL and Sign are required.
type Config struct {
	// WebhookURL is where webhooks are posted.
	WebhookURL string

	// Sign returns the headers that prove a webhook genuine. It is called anew
	// for each try, since signatures with a time in them expire.
	Sign func(body []byte, now time.Time) http.Header

	// Client posts the webhooks. Nil means one with a timeout of 10s.
	Client *http.Client

	// Latency is how long the API takes for an answer. Zero means 120ms,
	// negative none.
	Latency time.Duration
}

// Validate reports everything that is missing.
func (c Config) Validate() error {
	var errs []error
	if u, err := url.Parse(c.WebhookURL); err != nil || u.Scheme == "" || u.Host == "" {
		errs = append(errs, errors.New("demo: WebhookURL is not an absolute URL"))
	}
	if c.Sign == nil {
		errs = append(errs, errors.New("demo: Sign is missing"))
	}
	return errors.Join(errs...)
}

// CMS is a content management system with one editor and no memory of
// yesterday.
type CMS struct {
	cfg Config // fixed after New
	log *slog.Logger
	mux http.Handler

	mu       sync.Mutex
	articles []Article // in the order of their ids, never fewer

	outbox chan webhook
	count  counters
}

// New returns a CMS that holds the articles of a day at the bakery.
func New(cfg Config, log *slog.Logger) (*CMS, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Client == nil {
		cfg.Client = &http.Client{Timeout: 10 * time.Second}
	}
	client := *cfg.Client
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	cfg.Client = &client
	cfg.Latency = cmp.Or(cfg.Latency, 120*time.Millisecond)

	c := &CMS{cfg: cfg, log: log, articles: firstArticles(time.Now()), outbox: make(chan webhook, maxWaiting)}
	mux := http.NewServeMux()
	// freshwire: the origin of the cached routes.
	mux.HandleFunc("GET /_demo/cms/articles", c.list)
	mux.HandleFunc("GET /_demo/cms/articles/{id}", c.get)
	// The page's edit form.
	mux.HandleFunc("POST /_demo/cms/edit/{id}", c.answerEdit)
	mux.HandleFunc("POST /_demo/cms/create", c.answerCreate)
	// The page's copy button.
	mux.HandleFunc("GET /_demo/curl", c.curl)
	csrf := http.NewCrossOriginProtection()
	csrf.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		problem(w, http.StatusForbidden, "Requests from other sites are refused.")
	}))
	c.mux = csrf.Handler(mux)
	return c, nil
}

// ServeHTTP answers everything under /_demo/.
func (c *CMS) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Content-Type-Options", "nosniff")
	c.mux.ServeHTTP(w, r)
}

// Summary is an article in a list of them.
type Summary struct {
	ID    string `json:"id"`
	Slug  string `json:"slug"`
	Title string `json:"title"`
}

func (c *CMS) list(w http.ResponseWriter, r *http.Request) {
	if !c.takeTime(r) {
		return
	}
	c.mu.Lock()
	articles := make([]Summary, len(c.articles))
	for i, a := range c.articles {
		articles[i] = Summary{a.ID, a.Slug, a.Title}
	}
	c.mu.Unlock()
	reply(w, http.StatusOK, map[string]any{"articles": articles})
}

func (c *CMS) get(w http.ResponseWriter, r *http.Request) {
	if !c.takeTime(r) {
		return
	}
	// Read after the wait, as late as can be: an answer is never older than it took.
	a, err := c.Article(r.PathValue("id"))
	if err != nil {
		refuse(w, err)
		return
	}
	reply(w, http.StatusOK, a)
}

// takeTime is as slow as a CMS far away. It reports false when the caller has gone.
func (c *CMS) takeTime(r *http.Request) bool {
	if c.cfg.Latency < 0 {
		return true
	}
	timer := time.NewTimer(c.cfg.Latency)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-r.Context().Done():
		return false
	}
}

// Article returns the article of that id, or ErrUnknown.
func (c *CMS) Article(id string) (Article, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := c.find(id)
	if i < 0 {
		return Article{}, ErrUnknown
	}
	return c.articles[i], nil
}

func (c *CMS) find(id string) int { // under c.mu
	return slices.IndexFunc(c.articles, func(a Article) bool { return a.ID == id })
}

// Edit gives an article another title and body, and sends article.updated.
func (c *CMS) Edit(id, title, body string) (Article, error) {
	title, body, err := checkText(title, body)
	if err != nil {
		return Article{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	i := c.find(id)
	if i < 0 {
		return Article{}, ErrUnknown
	}
	a := c.articles[i]
	a.Title, a.Body, a.Version, a.UpdatedAt = title, body, a.Version+1, time.Now().UTC()
	// Both or neither: an edit whose webhook has no room would never be seen.
	// Readers of the API wait for c.mu, so none finds the article older than
	// its webhook says, however fast that is.
	if err := c.send("article.updated", a); err != nil {
		return Article{}, err
	}
	c.articles[i] = a
	c.log.Info("article edited", "article", a.ID, "version", a.Version)
	return a, nil
}

// Create adds an article, and sends article.created.
func (c *CMS) Create(title, body string) (Article, error) {
	title, body, err := checkText(title, body)
	if err != nil {
		return Article{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.articles) >= MaxArticles {
		return Article{}, ErrFull
	}
	id := strconv.Itoa(len(c.articles) + 1)
	a := Article{ID: id, Slug: slug(title, id), Title: title, Body: body, Version: 1, UpdatedAt: time.Now().UTC()}
	if err := c.send("article.created", a); err != nil {
		return Article{}, err
	}
	c.articles = append(c.articles, a)
	c.log.Info("article created", "article", a.ID, "version", a.Version)
	return a, nil
}

func checkText(title, body string) (string, string, error) {
	title = strings.TrimSpace(title)
	body = strings.TrimSpace(strings.ReplaceAll(body, "\r\n", "\n")) // forms send CR LF
	if !fits(title, MaxTitle) || !fits(body, MaxBody) || strings.ContainsFunc(title, unicode.IsControl) {
		return "", "", ErrText
	}
	return title, body, nil
}

func fits(text string, limit int) bool {
	return text != "" && utf8.ValidString(text) && utf8.RuneCountInString(text) <= limit
}

// slug makes "the-first-loaves" of "The first loaves!", and the id of a title
// without a single Latin letter.
func slug(title, id string) string {
	words := strings.FieldsFunc(strings.ToLower(title), func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9')
	})
	s := strings.Join(words, "-")
	return cmp.Or(strings.Trim(s[:min(len(s), 60)], "-"), "article-"+id)
}

func (c *CMS) answerEdit(w http.ResponseWriter, r *http.Request) {
	title, body, err := readText(w, r)
	if err != nil {
		refuse(w, err)
		return
	}
	a, err := c.Edit(r.PathValue("id"), title, body)
	if err != nil {
		refuse(w, err)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	reply(w, http.StatusOK, a)
}

func (c *CMS) answerCreate(w http.ResponseWriter, r *http.Request) {
	title, body, err := readText(w, r)
	if err != nil {
		refuse(w, err)
		return
	}
	a, err := c.Create(title, body)
	if err != nil {
		refuse(w, err)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Location", "/_demo/cms/articles/"+a.ID)
	reply(w, http.StatusCreated, a)
}

// readText reads a title and a body from JSON or a form.
func readText(w http.ResponseWriter, r *http.Request) (title, body string, err error) {
	r.Body = http.MaxBytesReader(w, r.Body, maxRequest)
	media, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	switch media {
	case "application/json":
		var text struct{ Title, Body string }
		err = json.NewDecoder(r.Body).Decode(&text)
		title, body = text.Title, text.Body
	case "application/x-www-form-urlencoded":
		err = r.ParseForm()
		title, body = r.PostForm.Get("title"), r.PostForm.Get("body")
	default:
		return "", "", errMedia
	}
	if tooLarge := (*http.MaxBytesError)(nil); err != nil && !errors.As(err, &tooLarge) {
		err = errSyntax
	}
	return title, body, err
}

var replies = []struct {
	err    error
	code   int
	detail string
}{
	{ErrUnknown, http.StatusNotFound, "There is no such article."},
	{ErrText, http.StatusUnprocessableEntity, "An article needs a title of 1 to 200 characters and a body of 1 to 20,000."},
	{ErrFull, http.StatusConflict, "The demo holds no more than 100 articles."},
	{ErrBehind, http.StatusServiceUnavailable, "Too many webhooks wait for delivery; look at the log."},
	{errMedia, http.StatusUnsupportedMediaType, "Send JSON or a form."},
	{errSyntax, http.StatusBadRequest, "The request cannot be read."},
}

func refuse(w http.ResponseWriter, err error) {
	for _, r := range replies {
		if errors.Is(err, r.err) {
			problem(w, r.code, r.detail)
			return
		}
	}
	problem(w, http.StatusRequestEntityTooLarge, "The request is larger than 128 KiB.")
}

func problem(w http.ResponseWriter, code int, detail string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(map[string]any{
		"type": "about:blank", "title": http.StatusText(code), "status": code, "detail": detail,
	})
}

func reply(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(v)
}

package main

import (
	"context"
	"os"
	"os/signal"
	"reflect"
	"syscall"

	"github.com/freshwire/freshwire/internal/yamlfile"
)

// reloads returns the part that reads the config file again at each SIGHUP. The
// signal, which would end the process, is caught from now on.
func (a *app) reloads() (run func(ctx context.Context) error) {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	return func(ctx context.Context) error {
		defer signal.Stop(hangup)
		for {
			select {
			case <-hangup:
				a.reload()
			case <-ctx.Done():
				return nil
			}
		}
	}
}

// reload puts the sources of the config file, as it is now, in the place of
// those in use; files that ${VAR} takes secrets from are read again, too. A
// file with mistakes changes nothing. All else takes effect at the next start.
func (a *app) reload() {
	if a.hooks == nil {
		a.log.Info("nothing to reload: this role takes no webhooks; restart it to apply a new config file")
		return
	}
	if a.site.name == "" {
		a.log.Info("nothing to reload: there is no config file")
		return
	}
	next, err := loadSite(environment{Config: a.site.name}, "")
	if err != nil {
		for _, mistake := range yamlfile.Flatten(err) {
			a.log.Error("config file not reloaded: the sources stay as they are", "err", mistake)
		}
		return
	}
	for _, section := range otherSections(a.site.file, next.file) {
		a.log.Warn("changed in the config file, and applied at the next start only", "section", section)
	}
	a.hooks.Replace(next.sources)
	a.log.Info("sources reloaded", "config", next.name, "sources", len(next.sources))
}

// otherSections names the sections besides sources that differ.
func otherSections(before, after configFile) []string {
	var names []string
	old, now := reflect.ValueOf(before), reflect.ValueOf(after)
	for i := range old.NumField() {
		name := old.Type().Field(i).Tag.Get("yaml")
		if name != "sources" && !reflect.DeepEqual(old.Field(i).Interface(), now.Field(i).Interface()) {
			names = append(names, name)
		}
	}
	return names
}

package cache

import (
	"embed"

	"github.com/redis/go-redis/v9"
)

//go:embed clock.lua invalidate.lua sync.lua giveback.lua barrier.lua leave.lua tell.lua told.lua acquire.lua renew.lua store.lua release.lua
var luaFiles embed.FS

// scripts are the Lua files, ready to run.
type scripts struct {
	invalidate, sync, giveBack, barrier, leave *redis.Script // on the ledger's slot
	tell, told                                 *redis.Script // on the ledger's slot
	acquire, renew, store, release             *redis.Script // on an entry's slot
}

var shipped = newScripts(func(_, source string) string { return source })

// newScripts passes each source through edit; tests take repairs out that way.
func newScripts(edit func(name, source string) string) scripts {
	file := func(name string) string {
		b, err := luaFiles.ReadFile(name + ".lua")
		if err != nil {
			panic(err) // embedded above
		}
		return edit(name, string(b))
	}
	clock := file("clock")
	return scripts{
		invalidate: redis.NewScript(clock + file("invalidate")),
		sync:       redis.NewScript(clock + file("sync")),
		giveBack:   redis.NewScript(clock + file("giveback")),
		barrier:    redis.NewScript(file("barrier")),
		leave:      redis.NewScript(file("leave")),
		tell:       redis.NewScript(file("tell")),
		told:       redis.NewScript(file("told")),
		acquire:    redis.NewScript(file("acquire")),
		renew:      redis.NewScript(file("renew")),
		store:      redis.NewScript(file("store")),
		release:    redis.NewScript(file("release")),
	}
}

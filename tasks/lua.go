package tasks

import (
	_ "embed"

	"github.com/redis/go-redis/v9"
)

var (
	//go:embed begin.lua
	beginLua string
	//go:embed update.lua
	updateLua string
	//go:embed reap.lua
	reapLua string
	//go:embed mark.lua
	markLua string
	//go:embed queued.lua
	queuedLua string

	beginScript  = redis.NewScript(beginLua)
	updateScript = redis.NewScript(updateLua)
	reapScript   = redis.NewScript(reapLua)
	markScript   = redis.NewScript(markLua)
	queuedScript = redis.NewScript(queuedLua)
)

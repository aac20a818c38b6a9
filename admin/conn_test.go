package admin

import "github.com/redis/go-redis/v9"

// conn hands the dashboard the test's client.
type conn struct{ *redis.Client }

func (c conn) MakeRedisClient() any { return redis.UniversalClient(c.Client) }

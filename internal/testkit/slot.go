package testkit

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/redis/go-redis/v9"
)

// MoveSlot moves the slot of a key to another master of the cluster, one key
// at a time, and calls between after each. Until it returns, the slot is on
// both: commands on many keys are refused.
func MoveSlot(ctx context.Context, rdb *redis.ClusterClient, key string, between func()) error {
	//lint:ignore SA1019 the ranges with their masters are all that is needed, and Valkey keeps the command
	slots, err := rdb.ClusterSlots(ctx).Result()
	if err != nil {
		return err
	}
	masters := map[string]*redis.Client{}
	for _, s := range slots {
		if addr := s.Nodes[0].Addr; masters[addr] == nil {
			masters[addr] = redis.NewClient(&redis.Options{Addr: addr})
			defer masters[addr].Close()
		}
	}
	slot, err := rdb.ClusterKeySlot(ctx, key).Result()
	if err != nil {
		return err
	}
	var from, to *redis.Client
	for _, c := range masters {
		if owns(ctx, c, int(slot)) {
			from = c
		} else {
			to = c
		}
	}
	if from == nil || to == nil {
		return errors.New("no owner, or no other master")
	}

	source, target := from.ClusterMyID(ctx).Val(), to.ClusterMyID(ctx).Val()
	if err := to.Do(ctx, "cluster", "setslot", slot, "importing", source).Err(); err != nil {
		return err
	}
	if err := from.Do(ctx, "cluster", "setslot", slot, "migrating", target).Err(); err != nil {
		return err
	}
	host, port, _ := net.SplitHostPort(to.Options().Addr)
	for {
		keys, err := from.ClusterGetKeysInSlot(ctx, int(slot), 1).Result()
		if err != nil {
			return err
		}
		if len(keys) == 0 {
			break
		}
		if err := from.Migrate(ctx, host, port, keys[0], 0, 0).Err(); err != nil {
			return fmt.Errorf("moving %q: %w", keys[0], err)
		}
		between()
	}
	if err := to.Do(ctx, "cluster", "setslot", slot, "node", target).Err(); err != nil { // the new owner first
		return err
	}
	for _, c := range masters {
		if err := c.Do(ctx, "cluster", "setslot", slot, "node", target).Err(); err != nil {
			return err
		}
	}
	return nil
}

// owns reports whether a master takes itself for the owner of a slot.
func owns(ctx context.Context, c *redis.Client, slot int) bool {
	me := c.ClusterMyID(ctx).Val()
	//lint:ignore SA1019 likewise
	slots, _ := c.ClusterSlots(ctx).Result()
	for _, s := range slots {
		if s.Start <= slot && slot <= s.End {
			return s.Nodes[0].ID == me
		}
	}
	return false
}

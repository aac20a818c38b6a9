package tasks

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
)

type metrics struct {
	events       *prometheus.CounterVec   // by what became of them
	seconds      prometheus.Histogram     // a task, from start to end
	latency      prometheus.Histogram     // an event, from receipt to log
	steps        *prometheus.HistogramVec // by step
	coalesced    prometheus.Counter
	settle       prometheus.Histogram // a wait for an origin
	unsettled    prometheus.Counter
	refilled     prometheus.Counter
	targets      *prometheus.CounterVec // by target and result
	notices      *prometheus.CounterVec // by target
	tells        *prometheus.CounterVec // by target
	reaped       prometheus.Counter
	recordErrors prometheus.Counter
}

var buckets = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}

// newMetrics returns the metrics of this package, the same ones for all that
// share cfg.Registerer, and lets it collect the depth of the queue from rdb.
func newMetrics(rdb redis.UniversalClient, cfg Config) *metrics {
	reg := cfg.Registerer
	register(reg, newQueueCollector(rdb, keys(cfg.Namespace)))
	return &metrics{
		events: register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{Name: "freshwire_events_total",
			Help: "Events, by what became of them: queued, duplicate, refused; done, ignored, retrying, failed."}, []string{"status"})),
		seconds: register(reg, prometheus.NewHistogram(prometheus.HistogramOpts{Name: "freshwire_task_seconds",
			Help: "Time of one attempt at an event.", Buckets: buckets})),
		latency: register(reg, prometheus.NewHistogram(prometheus.HistogramOpts{Name: "freshwire_event_seconds",
			Help: "Time from the receipt of an event to its entry in the log.", Buckets: buckets})),
		steps: register(reg, prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "freshwire_step_seconds",
			Help: "Time of one step of an attempt.", Buckets: buckets}, []string{"step"})),
		targets: register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{Name: "freshwire_target_results_total",
			Help: "Targets told, by result: ok, given_up."}, []string{"target", "result"})),
		coalesced: register(reg, prometheus.NewCounter(prometheus.CounterOpts{Name: "freshwire_events_coalesced_total",
			Help: "Events published by the run of a newer event on the same entity."})),
		settle: register(reg, prometheus.NewHistogram(prometheus.HistogramOpts{Name: "freshwire_settle_seconds",
			Help: "Time that an event waited for its origin to show what it announced.", Buckets: append(slices.Clone(buckets), 60, 120, 300)})),
		unsettled: register(reg, prometheus.NewCounter(prometheus.CounterOpts{Name: "freshwire_events_unsettled_total",
			Help: "Events whose origin still showed the old version when the wait for it was over."})),
		refilled: register(reg, prometheus.NewCounter(prometheus.CounterOpts{Name: "freshwire_refilled_total",
			Help: "Entries filled again before anybody was told of the event that made them void."})),
		notices: register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{Name: "freshwire_target_notices_total",
			Help: "What events had to tell a target, repetitions counted."}, []string{"target"})),
		tells: register(reg, prometheus.NewCounterVec(prometheus.CounterOpts{Name: "freshwire_target_tells_total",
			Help: "Times that a target was told, each with all the notices that had gathered."}, []string{"target"})),
		reaped: register(reg, prometheus.NewCounter(prometheus.CounterOpts{Name: "freshwire_queue_reaped_total",
			Help: "Tasks of dead workers given back to the queue."})),
		recordErrors: register(reg, prometheus.NewCounter(prometheus.CounterOpts{Name: "freshwire_event_record_errors_total",
			Help: "Event records that could not be written."})),
	}
}

// register returns c, or the collector that took its place before.
func register[C prometheus.Collector](reg prometheus.Registerer, c C) C {
	if reg == nil {
		return c
	}
	err := reg.Register(c)
	var already prometheus.AlreadyRegisteredError
	if errors.As(err, &already) {
		if old, ok := already.ExistingCollector.(C); ok {
			return old
		}
	}
	if err != nil {
		panic(err) // two different metrics of one name: a mistake in this file
	}
	return c
}

// queueCollector reads the depth of the queue when asked. It uses plain
// lengths: Asynq's own statistics fail when one task body is missing.
type queueCollector struct {
	rdb        redis.UniversalClient
	keys       keys
	tasks, age *prometheus.Desc
	reachable  *prometheus.Desc
}

func newQueueCollector(rdb redis.UniversalClient, k keys) *queueCollector {
	return &queueCollector{rdb: rdb, keys: k,
		tasks:     prometheus.NewDesc("freshwire_queue_tasks", "Tasks in the queue, by state: pending, active, retry, archived.", []string{"state"}, nil),
		age:       prometheus.NewDesc("freshwire_queue_oldest_seconds", "How long the next pending task has waited; 0 when none waits.", nil, nil),
		reachable: prometheus.NewDesc("freshwire_queue_up", "Whether the queue could be asked.", nil, nil),
	}
}

func (c *queueCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.tasks
	ch <- c.age
	ch <- c.reachable
}

func (c *queueCollector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	pipe := c.rdb.Pipeline()
	depths := map[string]*redis.IntCmd{
		"pending":  pipe.LLen(ctx, c.keys.pending()),
		"active":   pipe.LLen(ctx, c.keys.active()),
		"retry":    pipe.ZCard(ctx, c.keys.retry()),
		"archived": pipe.ZCard(ctx, c.keys.archived()),
	}
	next := pipe.LIndex(ctx, c.keys.pending(), -1)
	if _, err := pipe.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
		ch <- prometheus.MustNewConstMetric(c.reachable, prometheus.GaugeValue, 0)
		return
	}
	for state, n := range depths {
		ch <- prometheus.MustNewConstMetric(c.tasks, prometheus.GaugeValue, float64(n.Val()), state)
	}
	var age float64
	if id := next.Val(); id != "" {
		since, err := c.rdb.HGet(ctx, c.keys.task(id), "pending_since").Result()
		if ns, perr := strconv.ParseInt(since, 10, 64); err == nil && perr == nil {
			age = max(0, time.Since(time.Unix(0, ns)).Seconds())
		}
	}
	ch <- prometheus.MustNewConstMetric(c.age, prometheus.GaugeValue, age)
	ch <- prometheus.MustNewConstMetric(c.reachable, prometheus.GaugeValue, 1)
}

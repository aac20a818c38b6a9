// What the page's modules promise without a browser: times are read to the
// microsecond, and steps add up. Run by web_test.go, in a directory that holds
// the modules.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { pathToFileURL } from 'node:url';

globalThis.fetch = async () => ({ text: async () => '' }); // the favicon
const load = (name) => import(pathToFileURL(`${process.cwd()}/${name}`));
const { ms, span, timestamp } = await load('ui.js');
const { stepsOf } = await load('feed.js');

test('times are read with all of their decimals', () => {
  const base = Date.parse('2026-11-20T12:00:00Z');
  assert.ok(Math.abs(timestamp('2026-11-20T12:00:00.1234Z') - base - 123.4) < 0.001);
  assert.equal(timestamp('2026-11-20T13:00:00+01:00') - base, 0);
  for (const text of ['', undefined, 'yesterday', '0001-01-01T00:00:00Z']) assert.ok(Number.isNaN(timestamp(text)), text);
  assert.deepEqual([0.04, 9.94, 9.96, 999, 1500, 90_000, NaN].map(ms), ['0.0 ms', '9.9 ms', '10 ms', '999 ms', '1.5 s', '1.5 min', '–']);
  assert.deepEqual([59, 61, 7300, 200_000].map(span), ['59 s', '1 min', '2 h', '2 days']);
});

test('steps add up to the total, and a missing one takes no time from the next', () => {
  const at = (n) => `2026-11-20T12:00:00.${String(n).padStart(3, '0')}Z`;
  const record = { steps: [['received', 0], ['queued', 1], ['started', 8], ['planned', 8], ['invalidated', 10], ['settled', 9], ['published', 12], ['done', 13]].map(([step, n]) => ({ step, at: at(n) })) };
  const { list, total } = stepsOf(record, Date.parse(at(15)));
  const took = Object.fromEntries(list.map((s) => [s.name, s.took]));
  assert.deepEqual(took, { accept: 1, queue: 7, plan: 0, invalidate: 2, barrier: 0, reclaim: NaN, site: NaN, log: 2, browser: 3 });
  assert.equal(total, 15);
  assert.equal(stepsOf(record, Date.parse(at(15)), true).list.at(-1).name, 'away');
  assert.ok(Number.isNaN(stepsOf(null).total));
});

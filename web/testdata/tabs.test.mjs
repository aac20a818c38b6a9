// What the tabs of one browser promise each other: one line, nothing missed,
// nothing told twice, whoever leads and however they come and go. Run by
// web_test.go, in a directory that holds the modules.
//
// The browser and the server are models. Variants of the modules that lack one
// of their parts must be found out by the same judge.

import assert from 'node:assert/strict';
import { cpSync, readFileSync, writeFileSync } from 'node:fs';
import { test } from 'node:test';
import { pathToFileURL } from 'node:url';
import { World } from './browser.mjs';

// ---- promises ---------------------------------------------------------------

const { Stream } = await import(pathToFileURL(`${process.cwd()}/stream.js`));
const clean = (w) => assert.deepEqual(w.complaints(), []);

async function seven(S = Stream) {
  const w = new World(S);
  for (let i = 0; i < 7; i++) {
    w.open();
    w.change();
  }
  await w.pass(100);
  return w;
}

/** Changes meanwhile, one every few milliseconds. */
async function changes(w, ms) {
  for (let t = 0; t < ms; t += 7) {
    w.change();
    await w.pass(7);
  }
}

test('seven tabs hear everything once, over one line', async () => {
  const w = await seven();
  await changes(w, 500);
  await w.pass(100);
  clean(w);
  assert.equal(w.sources.size, 1);
  for (const tab of w.tabs) assert.equal(tab.stream.state, 'open');
});

for (const [how, end] of [
  ['closes', (tab) => tab.close()],
  ['crashes', (tab) => tab.die()],
  ['drops its line', (tab) => tab.do(() => tab.stream.drop(60_000))],
  ['is put away', (tab) => tab.say(tab.page, 'pagehide')],
  ['freezes', (tab) => tab.freeze()],
]) {
  test(`the tabs go on at once when the leader ${how}`, async () => {
    const w = await seven();
    for (let i = 0; i < 6; i++) {
      await changes(w, 50);
      const [leader] = w.leaders;
      end(leader);
      leader.alive = false; // the judge looks at the others
      await changes(w, 100);
      await w.pass(1000);
      clean(w);
      assert.equal(w.leaders.filter((tab) => tab.alive).length, 1);
    }
  });
}

test('a frozen tab has all of it once when it thaws, and the others nothing twice', async () => {
  const w = await seven();
  const [leader] = w.leaders;
  const follower = w.tabs.find((tab) => tab !== leader);
  leader.freeze();
  follower.freeze();
  await changes(w, 200);
  leader.thaw();
  follower.thaw();
  await changes(w, 200);
  await w.pass(1000);
  clean(w);
  assert.equal(w.sources.size, 1);
});

test('a leader that hangs without a word is robbed when somebody asks, and by itself after the silence', async () => {
  for (const notice of [(w) => w.open(), (w, tab) => tab.say(tab.document, 'visibilitychange'), () => {}]) {
    const w = await seven();
    const [leader] = w.leaders;
    const follower = w.tabs.find((tab) => tab !== leader);
    leader.hung = true;
    await changes(w, 50);
    const late = notice(w, follower);
    await w.pass(notice.length ? 6000 : 62_000);
    await changes(w, 50);
    await w.pass(100);
    assert.equal(w.leaders.filter((tab) => tab !== leader).length, 1, 'one of the others leads');
    leader.wakeUp();
    await changes(w, 50);
    await w.pass(1000);
    clean(w);
    assert.equal(w.sources.size, 1);
    assert.equal((late ?? follower).stream.state, 'open');
  }
});

test('a leader whose line is dead, though it answers, is robbed after the silence', async () => {
  const w = await seven();
  const [leader] = w.leaders;
  leader.deaf = true; // half frozen: it hears the others, not the server
  await changes(w, 50);
  await w.pass(75_000);
  const others = w.tabs.filter((tab) => tab !== leader);
  assert.ok(!w.leaders.includes(leader));
  assert.ok(others.some((tab) => w.leaders.includes(tab)));
  await changes(w, 50);
  await w.pass(100);
  clean(w);
});

test('a page from a cache gets what happened since, and the others nothing twice', async () => {
  const w = await seven();
  await changes(w, 100);
  w.open('2-0');
  await changes(w, 100);
  w.open('1-0');
  w.open('3-0');
  await w.pass(1000);
  clean(w);
  assert.equal(w.sources.size, 1);
});

test('a reset reaches every tab once, also one that was away', async () => {
  const w = await seven();
  const away = w.tabs.find((tab) => !w.leaders.includes(tab));
  away.freeze();
  w.server = 'gone';
  w.cut();
  await w.pass(10);
  for (let i = 0; i < 20; i++) w.change();
  w.oldest = w.head - 5;
  w.server = 'up';
  await w.pass(5000);
  away.thaw();
  await w.pass(5000);
  clean(w);
  assert.deepEqual(w.tabs.map((tab) => tab.resets.length), [1, 1, 1, 1, 1, 1, 1]);
});

test('a refused channel closes all tabs, and an asking one opens all that ask', async () => {
  const w = await seven();
  w.server = '403';
  w.cut();
  await w.pass(10_000);
  for (const tab of w.tabs) assert.deepEqual([tab.stream.state, tab.states.at(-1).status], ['closed', 403]);
  const { calls } = w;
  await w.pass(120_000);
  assert.equal(w.calls, calls, 'nobody calls again');
  w.server = 'up';
  for (const tab of w.tabs) tab.do(() => tab.stream.open());
  await changes(w, 50);
  await w.pass(1000);
  clean(w);
  assert.equal(w.sources.size, 1);
});

test('tabs that ask for other channels have a line of their own', async () => {
  const w = await seven();
  w.open(undefined, '/api/events?channel=b');
  await changes(w, 50);
  await w.pass(100);
  clean(w);
  assert.equal(w.sources.size, 2);
});

test('a pause that a hidden leader sleeps through ends when another tab asks', async () => {
  const w = await seven();
  const [leader] = w.leaders;
  w.server = 'refuses';
  w.cut();
  await w.pass(2500);
  for (const timer of w.timers) if (timer.tab === leader) timer.due += 60_000; // as browsers do to hidden pages
  w.server = 'up';
  w.change();
  await w.pass(10_000);
  clean(w);
});

// Anything in any order, then quiet: the judge looks at who is still there.
async function anything(S, seed) {
  const w = new World(S, seed);
  const away = new Map(); // tab → how it comes back
  const pick = (list) => list[w.random(list.length || 1)];
  const some = () => pick(w.tabs.filter((tab) => tab.alive && !away.has(tab)));
  const deeds = [
    () => w.change(),
    () => w.change(),
    () => w.change(),
    () => w.tabs.filter((tab) => tab.alive).length < 8 && w.open(`${Math.max(w.oldest - 1, w.head - w.random(4))}-0`),
    () => some()?.close(),
    () => w.random(2) && some()?.die(),
    (tab) => tab && (tab.freeze(), away.set(tab, () => tab.thaw())),
    (tab) => tab && ((tab.hung = true), away.set(tab, () => tab.wakeUp())),
    (tab) => tab && (tab.say(tab.page, 'pagehide'), away.set(tab, () => tab.say(tab.page, 'pageshow', { persisted: true }))),
    (tab) => tab?.do(() => tab.stream.drop(w.random(3000))),
    (tab) => tab?.say(tab.document, 'visibilitychange'),
    () => w.cut(),
    () => (w.server = ['up', 'up', 'refuses', 'gone'][w.random(4)]) === 'up' || w.cut(),
    () => {
      const [tab, back] = pick([...away]) ?? [];
      if (tab) back();
      away.delete(tab);
    },
  ];
  for (let i = 0; i < 150; i++) {
    deeds[w.random(deeds.length)](some());
    await w.pass(w.random(w.random(10) ? 40 : 6000));
  }
  w.server = 'up';
  for (const [tab, back] of away) w.random(3) ? back() : (tab.hung = true); // for ever
  await w.pass(120_000);
  w.change();
  await w.pass(1000);
  const there = w.tabs.filter((tab) => tab.alive && !tab.hung);
  const lines = w.leaders.filter((tab) => there.includes(tab)).length;
  const found = w.complaints();
  if (lines !== Math.min(1, there.length)) found.push(`${lines} lines`);
  return found;
}

test('whatever the tabs go through, nothing is missed and nothing told twice', async () => {
  for (let seed = 1; seed <= Number(process.env.SEEDS ?? 60); seed++) assert.deepEqual(await anything(Stream, seed * 7919), [], `seed ${seed}`);
});

// ---- variants that lack something: the judge must see it ---------------------

const broken = [
  ['no dedupe', 'stream.js', '!newer(position, this.position)', 'false', /twice/],
  ['no look for gaps', 'stream.js', 'newer(after, this.position)', 'false', /missed/],
  ['no position on the line', 'line.js', 'this.position ? `', 'false ? `', /reset that nobody sent/],
  ['nobody goes back', 'stream.js', 'line.rewind(position)', 'line.tick()', /missed/],
  ['nobody is robbed', 'stream.js', 'this.#queue(true)', '0', /missed/],
  ['a robbed one goes on', 'stream.js', "if (turn !== this.#turn) return; // we", 'return; // we', /lines/],
];
for (const [what, file, text, instead, complaint] of broken) {
  test(`the judge sees a variant with ${what}`, async () => {
    const dir = `${process.cwd()}/${what.replaceAll(' ', '-')}`;
    for (const name of ['stream.js', 'line.js', 'package.json']) cpSync(name, `${dir}/${name}`);
    const code = readFileSync(file, 'utf8');
    assert.equal(code.split(text).length, 2, `${file} has one ${text}`);
    writeFileSync(`${dir}/${file}`, code.replace(text, instead));
    const variant = await import(pathToFileURL(`${dir}/stream.js`));
    for (let seed = 1; seed <= 60; seed++) {
      if ((await anything(variant.Stream, seed * 7919)).some((c) => complaint.test(c))) return;
    }
    assert.fail('60 runs, and no complaint');
  });
}

// A model of a browser with tabs, locks and messages, of its clock, and of a
// server of events. Every message may be late; tabs hang, freeze, and die
// without a word. A seed is a story that can be told again.

import { AsyncLocalStorage } from 'node:async_hooks';
import { setMaxListeners } from 'node:events';

const settle = () => new Promise((resolve) => setImmediate(resolve));
const inTab = new AsyncLocalStorage(); // whose code runs
const CHANNEL_A = '/api/events?channel=a';

let world;

export class World {
  now = Date.parse('2026-11-20T12:00:00Z');
  timers = [];
  serial = 0;
  tabs = [];
  sources = new Set();
  channels = new Set();
  locks = new Map(); // name → {holder, queue}
  log = []; // numbers of changes; the position of n is "n-0"
  oldest = 1; // changes before it are forgotten
  server = 'up'; // refuses: 502, gone: nobody answers, or a final status
  calls = 0;
  words = 0; // between tabs

  constructor(Stream, seed = 1) {
    this.Stream = Stream;
    this.seed = seed;
    world = this;
  }

  random(n) {
    this.seed = (this.seed + 0x6d2b79f5) | 0; // mulberry32
    let t = Math.imul(this.seed ^ (this.seed >>> 15), 1 | this.seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) % n;
  }

  at(delay, tab, fn, every = 0) {
    const timer = { id: ++this.serial, due: this.now + delay, tab, fn, every };
    this.timers.push(timer);
    return timer;
  }

  clear(timer) {
    if (!timer) return;
    timer.cleared = true; // also where a hung tab has not come to it
    this.timers = this.timers.filter((other) => other !== timer);
  }

  async pass(ms) {
    const end = this.now + ms;
    for (;;) {
      await settle();
      const next = this.timers.reduce((a, b) => (b.due < a.due || (b.due === a.due && b.id < a.id) ? b : a), { due: Infinity });
      if (next.due > end) break;
      this.now = next.due;
      if (next.every) next.due += next.every;
      else this.timers.splice(this.timers.indexOf(next), 1);
      next.tab ? next.tab.do(() => next.cleared || next.fn()) : next.fn();
    }
    this.now = end;
  }

  get head() {
    return this.log.length;
  }

  change() {
    const n = this.log.push(this.log.length + 1);
    for (const source of this.sources) source.send(n);
    return n;
  }

  cut() {
    for (const source of this.sources) source.breakOff();
  }

  open(from = `${this.head}-0`, url = CHANNEL_A) {
    const tab = new Tab(this, from, url);
    this.tabs.push(tab);
    return tab;
  }

  get leaders() {
    return [...this.sources].map((source) => source.tab); // one a line
  }

  /** What is wrong with what the tabs showed. */
  complaints() {
    const found = [];
    this.tabs.forEach((tab, i) => {
      if (!tab.alive || tab.hung) return;
      if (tab.resets.some((r) => r.unasked)) found.push(`tab ${i}: a reset that nobody sent`);
      const forgiven = Math.max(0, ...tab.resets.map((r) => r.position));
      const missed = this.log.filter((n) => n > tab.start && n > forgiven && !tab.seen.includes(n));
      const twice = tab.seen.filter((n, at) => tab.seen.indexOf(n) !== at);
      const disordered = tab.seen.filter((n, at) => at > 0 && n < tab.seen[at - 1]);
      if (missed.length) found.push(`tab ${i}: missed ${missed}`);
      if (twice.length) found.push(`tab ${i}: twice ${twice}`);
      else if (disordered.length) found.push(`tab ${i}: out of order ${disordered}`);
    });
    return found;
  }
}

class Tab {
  alive = true;
  hung = false;
  waiting = []; // what it will do when it no longer hangs
  seen = [];
  resets = [];
  states = [];
  page = new EventTarget();
  document = Object.assign(new EventTarget(), { hidden: false });

  constructor(w, from, url) {
    this.world = w;
    this.start = from === '' ? w.head : Number(from.split('-')[0]);
    this.do(() => {
      globalThis.document = this.document;
      globalThis.addEventListener = this.page.addEventListener.bind(this.page);
      this.stream = new w.Stream(url, from);
      this.stream.addEventListener('change', ({ detail }) => this.seen.push(detail.data.n));
      this.stream.addEventListener('reset', ({ detail }) =>
        this.resets.push({ position: Number(this.stream.position.split('-')[0]), unasked: w.oldest === 1, ...detail }),
      );
      this.stream.addEventListener('state', ({ detail }) => this.states.push(detail));
      this.stream.open();
    });
  }

  do(fn) {
    if (this.hung) this.waiting.push(fn);
    else if (this.alive) inTab.run(this, fn);
  }

  say(target, name, more = {}) {
    this.do(() => target.dispatchEvent(Object.assign(new Event(name), more)));
  }

  // A frozen page does nothing, but may get ready for it.
  freeze() {
    this.say(this.document, 'freeze');
    this.hung = true;
  }

  thaw() {
    this.wakeUp();
    this.say(this.document, 'resume');
  }

  wakeUp() {
    this.hung = false;
    for (const fn of this.waiting.splice(0)) this.do(fn);
  }

  // A closed one says so; one that crashed does not.
  close() {
    this.say(this.page, 'pagehide');
    this.die();
  }

  die() {
    this.alive = false;
    const w = this.world;
    for (const source of w.sources) if (source.tab === this) w.sources.delete(source);
    for (const channel of w.channels) if (channel.tab === this) w.channels.delete(channel);
    for (const [name, lock] of w.locks) {
      lock.queue = lock.queue.filter((r) => r.tab !== this);
      if (lock.holder?.tab === this) grantNext(name);
    }
  }
}

// Server-sent events. Messages of one line keep their order.
class Source extends EventTarget {
  static CONNECTING = 0;
  static OPEN = 1;
  static CLOSED = 2;
  readyState = 0;
  lastId = '';
  due = 0;

  constructor(url) {
    super();
    this.tab = inTab.getStore();
    this.w = this.tab.world;
    this.lastId = new URL(url).searchParams.get('lastEventId') ?? '';
    this.w.sources.add(this);
    this.call();
  }

  close() {
    this.readyState = Source.CLOSED;
    this.w.sources.delete(this);
  }

  soon(fn, delay = 1 + this.w.random(5)) {
    if (this.tab.deaf) return;
    this.due = Math.max(this.due, this.w.now + delay);
    this.w.at(this.due - this.w.now, this.tab, () => this.readyState !== Source.CLOSED && fn());
  }

  call() {
    if (++this.w.calls > 2000) return; // a variant may storm the server
    this.soon(() => {
      if (this.w.server === 'gone') return this.breakOff();
      if (this.w.server !== 'up') {
        this.close();
        return this.onerror();
      }
      this.readyState = Source.OPEN;
      const from = this.lastId === '' ? this.w.head : Number(this.lastId.split('-')[0]);
      this.told = Math.max(from, this.w.oldest - 1);
      this.say('open');
      if (this.told > from) this.say('reset', { reason: 'history_lost' }, `${this.told}-0`);
      else this.say('ready', {}, `${this.told}-0`);
      while (this.told < this.w.head) this.send(this.told + 1);
    });
  }

  send(n) {
    if (this.readyState !== Source.OPEN || n !== this.told + 1) return;
    this.told = n;
    this.soon(() => this.say('message', { n, at: '2026-11-20T12:00:00Z' }, `${n}-0`));
  }

  say(name, data = {}, id = '') {
    if (this.readyState !== Source.OPEN) return; // lost on the way
    if (id) this.lastId = id;
    this.dispatchEvent(Object.assign(new Event(name), { data: JSON.stringify(data), lastEventId: this.lastId }));
  }

  breakOff() {
    if (this.readyState === Source.CLOSED) return;
    this.readyState = Source.CONNECTING;
    this.due = this.w.now; // what was under way is lost
    const broken = {};
    this.broken = broken;
    this.soon(() => {
      this.onerror();
      this.soon(() => this.broken === broken && this.call(), 2000);
    }, 1);
  }
}

class Channel {
  constructor(name) {
    Object.assign(this, { name, tab: inTab.getStore(), due: new Map() });
    this.tab.world.channels.add(this);
  }
  postMessage(data) {
    const w = this.tab.world;
    const copy = structuredClone(data);
    for (const other of w.channels) {
      if (other === this || other.name !== this.name || ++w.words > 20_000) continue;
      const due = Math.max(this.due.get(other) ?? 0, w.now + 1 + w.random(5));
      this.due.set(other, due);
      w.at(due - w.now, other.tab, () => w.channels.has(other) && other.onmessage({ data: copy }));
    }
  }
  close() {
    this.tab.world.channels.delete(this);
  }
}

const aborted = () => new DOMException('', 'AbortError');

function grantNext(name) {
  const lock = world.locks.get(name);
  lock.holder = lock.queue.shift() ?? null;
  if (lock.holder) grant(name, lock.holder);
}

function grant(name, request) {
  world.at(1 + world.random(3), request.tab, async () => {
    if (world.locks.get(name).holder !== request) return;
    await request.held();
    if (world.locks.get(name).holder !== request) return;
    request.resolve();
    grantNext(name);
  });
}

const locks = {
  request(name, { signal, steal }, held) {
    const { promise, resolve, reject } = withResolvers();
    const request = { tab: inTab.getStore(), held, resolve, reject };
    if (!world.locks.has(name)) world.locks.set(name, { holder: null, queue: [] });
    const lock = world.locks.get(name);
    signal?.addEventListener('abort', () => {
      if (!lock.queue.includes(request)) return;
      lock.queue.splice(lock.queue.indexOf(request), 1);
      reject(aborted());
    });
    if (steal) {
      const robbed = lock.holder;
      if (robbed) robbed.tab.do(() => robbed.reject(aborted()));
      lock.holder = request;
      grant(name, request);
    } else {
      lock.queue.push(request);
      if (!lock.holder) grantNext(name);
    }
    return promise;
  },
};

function withResolvers() {
  let resolve, reject;
  const promise = new Promise((a, b) => ([resolve, reject] = [a, b]));
  return { promise, resolve, reject };
}

Object.assign(globalThis, {
  location: { href: 'http://localhost/' },
  EventSource: Source,
  BroadcastChannel: Channel,
  setTimeout: (fn, ms = 0) => world.at(ms, inTab.getStore(), fn),
  setInterval: (fn, ms) => world.at(ms, inTab.getStore(), fn, ms),
  clearTimeout: (timer) => world.clear(timer),
  clearInterval: (timer) => world.clear(timer),
  fetch: async () => {
    if (world.server === 'gone') throw new TypeError('nobody there');
    return { status: Number(world.server) || (world.server === 'up' ? 200 : 502), headers: new Headers() };
  },
});
Object.defineProperty(globalThis, 'navigator', { value: { locks } });
Date.now = () => world.now;
Math.random = () => world.random(1e6) / 1e6;
setMaxListeners(0);

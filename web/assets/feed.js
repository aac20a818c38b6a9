// The feed: one row an event, newest first, with the time of each step on its
// way. A row is made of what the stream told (a change), of the event's record
// (GET /admin/events/{id}), or of both; either may come first.

import { ask, clock, el, ms, say, timestamp, wallClock } from './ui.js';

// The steps in their order: name, the time in the record that ends it, what is done in it.
const STEPS = [
  ['accept', 'queued', 'signature checked, event made durable'],
  ['queue', 'started', 'waiting for a worker'],
  ['plan', 'planned', 'rules say what to purge and whom to tell'],
  ['invalidate', 'invalidated', 'old copies void, by one script in Redis'],
  ['barrier', 'settled', 'every node knows that they are void'],
  ['reclaim', 'reclaimed', 'keys of other programs deleted'],
  ['site', 'told', 'targets told to revalidate'],
  ['log', 'published', 'written to the log of changes'],
];

/**
 * Steps of a record: [{name, what, start, took}] in ms, took NaN where the
 * record does not tell; and the total from receipt to the last of them.
 */
export function stepsOf(record, heard = NaN, replayed = false) {
  const times = timesOf(record);
  const first = timestamp(times.received);
  let from = first;
  const list = STEPS.map(([name, key, what]) => step(name, what, timestamp(times[key])));
  if (Number.isFinite(heard)) {
    const [name, what] = replayed ? ['away', 'not connected; replayed from the log'] : ['browser', 'log to this browser'];
    list.push(step(name, what, heard));
  }
  return { list, total: from - first };

  // Clocks of several machines: a step never ends before it began.
  function step(name, what, end) {
    const start = from - first;
    const took = Math.max(0, end - from);
    if (Number.isFinite(took)) from = Math.max(from, end);
    return { name, what, start, took };
  }
}

// {received: '2026-…', queued: …} of [{step: 'received', at: '2026-…'}, …].
const timesOf = (record) => Object.fromEntries((record?.steps ?? []).map(({ step, at }) => [step, at]));

const RECORD_PAUSES = [60, 400, 2000]; // ms; the record is complete shortly after browsers were told
const MOST_QUESTIONS = 8; // at a time; under load the list tells soon enough

class Row {
  change = null;
  record = null;
  heard = NaN;
  replayed = false;

  constructor(id) {
    this.id = id;
    this.time = el('time');
    this.name = el('b');
    this.what = el('span', { class: 'what' });
    this.marks = el('span', { class: 'marks' });
    this.total = el('span', { class: 'total' });
    this.bar = el('span', { class: 'bar', 'aria-hidden': 'true' });
    this.legend = el('span', { class: 'legend' });
    this.more = el('div', { class: 'more' });
    this.details = el(
      'details',
      {},
      el('summary', {}, this.time, el('span', { class: 'head' }, this.name, ' ', this.what), this.marks, this.total, this.bar, this.legend),
      this.more,
    );
    this.details.addEventListener('toggle', () => this.showMore());
    this.node = el('li', { class: 'row', 'data-event-id': id }, this.details);
  }

  get at() {
    return timestamp(this.record?.received_at ?? this.change?.at);
  }

  get status() {
    return this.record?.status ?? 'done'; // browsers are told of nothing else
  }

  get fields() {
    const { steps: _, ...record } = this.record ?? {};
    return { ...this.change, ...record };
  }

  get text() {
    return JSON.stringify(this.fields).toLowerCase();
  }

  show() {
    const f = this.fields;
    say(this.time, clock(this.at));
    say(this.name, f.event || f.name || 'event');
    say(this.what, [f.source, [f.type, f.entity].filter(Boolean).join(' '), f.fields?.title ?? f.slug].filter(Boolean).join(' · '));
    this.node.dataset.status = this.status;
    this.node.toggleAttribute('data-replayed', this.replayed);

    const marks = [];
    if (this.status !== 'done') marks.push(this.status);
    if (this.replayed) marks.push('replayed');
    if (f.degraded) marks.push('degraded');
    if (f.superseded) marks.push('superseded');
    if (f.ids?.length > 1) marks.push(`${f.ids.length} events`);
    if (marks.join() !== this.shownMarks) {
      this.shownMarks = marks.join();
      this.marks.replaceChildren(...marks.map((m) => el('span', { class: 'mark', 'data-mark': m }, m)));
    }

    const { list, total } = stepsOf(this.record, this.heard, this.replayed);
    const shown = total > 0 ? total : this.heard - this.at; // to the ms, without a record
    say(this.total, shown >= 0 ? ms(shown) : '');
    if (shown >= 0) this.node.dataset.totalMs = shown.toFixed(2);
    this.bar.replaceChildren(
      ...list.filter((s) => s.took > 0.02).map((s) => {
        const part = stripe(s.name);
        part.style.flexGrow = s.took;
        return part;
      }),
    );
    const parts = list.map((s) => `${s.name} ${ms(s.took)}`);
    say(this.legend, this.record?.steps ? parts.join(' · ') : '');
    this.showMore();
  }

  // Filled only while it is open: most rows never are.
  showMore() {
    if (!this.details.open) {
      this.more.replaceChildren();
      return;
    }
    const { list, total } = stepsOf(this.record, this.heard, this.replayed);
    const table = el('table', { class: 'steps' }, el('caption', {}, 'Steps, from receipt'));
    for (const s of list) {
      const lane = el('td', { class: 'lane' });
      if (s.took >= 0 && total > 0) {
        const bar = stripe(s.name);
        bar.style.marginInlineStart = `${(100 * s.start) / total}%`;
        bar.style.width = `${(100 * s.took) / total}%`;
        lane.append(bar);
      }
      table.append(el('tr', {}, el('th', { scope: 'row' }, s.name), el('td', { class: 'num' }, ms(s.took)), lane, el('td', { class: 'why' }, s.what)));
    }
    const facts = el('dl', { class: 'facts' });
    for (const [key, value] of Object.entries(this.fields)) {
      const text = plain(value);
      if (text) facts.append(el('div', {}, el('dt', {}, key.replaceAll('_', ' ')), el('dd', {}, text)));
    }
    this.more.replaceChildren(...(this.record?.steps ? [table] : []), facts);
  }
}

function stripe(step) {
  const node = el('i', { 'data-step': step });
  node.style.background = `var(--${step})`;
  return node;
}

function plain(value) {
  if (value === null || value === undefined || value === '') return '';
  if (typeof value !== 'object') return String(value);
  if (Array.isArray(value)) return value.map(plain).join(', ');
  return Object.entries(value).map(([key, v]) => `${key}: ${plain(v)}`).join(' · ');
}

export const MOST_ROWS = 300;

/** Events: waiting {n}, rows held back by a pause; size {shown, all}. */
export class Feed extends EventTarget {
  #list;
  #max;
  #rows = new Map(); // event id → Row, shown or held back
  #held = []; // rows that came during a pause
  #paused = false;
  #fits = () => true;
  #asking = 0;
  #mayAsk = true;

  constructor(list, max = MOST_ROWS) {
    super();
    this.#list = list;
    this.#max = max;
  }

  get rows() {
    return [...this.#rows.values()];
  }

  /** Takes what the stream told: the detail of its change event. */
  heard({ data, position, replayed }) {
    const row = this.#row(data.id);
    if (row.change) return; // told again: the first time counts
    row.change = { ...data, position };
    row.heard = wallClock();
    row.replayed = replayed;
    this.#place(row);
    this.#askFor(row);
  }

  /** Takes a record of the admin API. */
  tell(record) {
    const row = this.#row(record.id);
    const told = JSON.stringify(record);
    if (row.told === told) return; // lists are asked for again and again
    row.told = told;
    row.record = record;
    this.#place(row);
  }

  /** Says something that is no event, such as a reset. */
  note(text) {
    this.#list.prepend(el('li', { class: 'note' }, el('time', {}, clock(wallClock())), ' ', text));
  }

  pause(on) {
    this.#paused = on;
    if (on) return;
    for (const row of this.#held.splice(0)) this.#place(row);
    this.#emit('waiting', { n: 0 });
  }

  filter(fits) {
    this.#fits = fits;
    for (const row of this.#rows.values()) row.node.hidden = !fits(row);
    this.#count();
  }

  #row(id) {
    if (!this.#rows.has(id)) this.#rows.set(id, new Row(id));
    return this.#rows.get(id);
  }

  #place(row) {
    if (this.#paused && !row.node.isConnected) {
      if (!this.#held.includes(row)) this.#held.push(row);
      if (this.#held.length > this.#max) this.#rows.delete(this.#held.shift().id);
      this.#emit('waiting', { n: this.#held.length });
      return;
    }
    row.show();
    row.node.hidden = !this.#fits(row);
    if (!row.node.isConnected) {
      let before = this.#list.firstElementChild;
      while (before && this.#at(before) > row.at) before = before.nextElementSibling;
      this.#list.insertBefore(row.node, before);
    }
    this.#trim();
    this.#count();
  }

  #at(node) {
    return this.#rows.get(node.dataset.eventId)?.at ?? -Infinity;
  }

  #trim() {
    while (this.#list.childElementCount > this.#max) {
      const last = this.#list.lastElementChild;
      this.#rows.delete(last.dataset.eventId);
      last.remove();
    }
  }

  #count() {
    const all = this.rows.filter((row) => row.node.isConnected);
    this.#emit('size', { all: all.length, shown: all.filter((row) => !row.node.hidden).length });
  }

  async #askFor(row) {
    if (!this.#mayAsk || this.#asking >= MOST_QUESTIONS) return;
    this.#asking++;
    try {
      for (const pause of RECORD_PAUSES) {
        await new Promise((resolve) => setTimeout(resolve, pause));
        this.tell(await ask(`/admin/events/${encodeURIComponent(row.id)}`));
        if (timesOf(row.record).done) break;
      }
    } catch (e) {
      if (e.refused) this.#mayAsk = false; // not an operator: rows without steps
    } finally {
      this.#asking--;
    }
  }

  #emit(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}

// The tiles of the live page: a figure, what stands behind it, and its course
// over the last minutes as a small drawing.

import { MOST_ROWS } from './feed.js';
import { count, el, ms, say, wallClock } from './ui.js';

const WINDOW = 300_000; // ms that the figures speak of
const POINTS = 60; // of a drawing

const TILES = [
  ['events', 'Events, 5 min'],
  ['hits', 'Hit rate'],
  ['queue', 'In the queue'],
  ['clients', 'Connected'],
  ['latency', 'Webhook to browser'],
];

export class Figures {
  #tiles = {};
  #samples = []; // {at, stats}, oldest first, within WINDOW
  #delays = []; // {at, ms} of changes heard live

  constructor(list) {
    for (const [key, name] of TILES) {
      const value = el('dd', { class: 'value', id: `tile-${key}` }, '–');
      const foot = el('dd', { class: 'foot' });
      const drawing = el('dd', { class: 'spark' });
      this.#tiles[key] = { value, foot, drawing, course: [], name };
      list.append(el('div', { class: 'tile', 'data-tile': key }, el('dt', {}, name), value, foot, drawing));
    }
  }

  /** Takes a change as the stream told it, for the time it took. */
  heard({ data, replayed }) {
    const delay = wallClock() - Date.parse(data.at);
    if (!replayed && delay >= 0 && delay < 60_000) this.#delays.push({ at: Date.now(), ms: delay });
  }

  /** Takes GET /_freshwire/stats, and the rows of the feed. */
  take(stats, rows) {
    const now = Date.now();
    const before = this.#samples.at(-1)?.stats;
    if (before && stats.uptime_s < before.uptime_s) this.#samples = []; // another process: its counters began at 0
    this.#samples.push({ at: now, stats });
    while (now - this.#samples[0].at > WINDOW) this.#samples.shift();
    this.#delays = this.#delays.filter((d) => now - d.at < WINDOW);

    const recent = rows.filter((row) => now - row.at < WINDOW);
    this.#events(recent, recent.length >= MOST_ROWS ? '+' : '');
    this.#hits(stats);
    const { pending = 0, active = 0, retry = 0, archived = 0 } = stats.queue ?? {};
    this.#show('queue', pending + active + retry, count(pending + active + retry), [
      active && `${count(active)} running`, retry && `${count(retry)} retrying`, archived && `${count(archived)} given up`,
    ], archived > 0);
    this.#show('clients', stats.subscribers, count(stats.subscribers), [stats.subscribers === 1 ? 'stream' : 'streams', stats.stream_nodes > 1 && `on ${stats.stream_nodes} nodes`]);
    const delays = this.#delays.map((d) => d.ms).sort((a, b) => a - b);
    const at = (share) => delays[Math.min(delays.length - 1, Math.floor(share * delays.length))];
    this.#show('latency', at(0.5), ms(at(0.5)), [delays.length ? `p95 ${ms(at(0.95))}` : 'none heard yet']);
  }

  #events(rows, more) {
    const number = (status) => rows.filter((row) => row.status === status).length;
    const [failed, retrying, done] = [number('failed'), number('retrying'), number('done')];
    this.#show('events', done, count(done) + more, ['done', failed && `${failed} failed`, retrying && `${retrying} retrying`], failed > 0);
  }

  // Of the window; of the whole time as long as the window saw no reads.
  #hits(stats) {
    const sum = (c = {}) => {
      const served = (c.hit ?? 0) + (c.stale ?? 0);
      return { served, all: served + (c.miss ?? 0) + (c.bypass ?? 0) };
    };
    const [first, last] = [sum(this.#samples[0].stats.cache), sum(stats.cache)];
    const recent = last.all > first.all;
    const [served, all] = recent ? [last.served - first.served, last.all - first.all] : [last.served, last.all];
    const share = all > 0 ? (100 * served) / all : NaN;
    const text = Number.isFinite(share) ? `${share < 99.95 && share >= 10 ? share.toFixed(1) : Math.round(share)} %` : '–';
    this.#show('hits', share, text, [all ? `${count(all)} reads${recent ? '' : ' since start'}` : 'no reads yet']);
  }

  #show(key, number, text, foot, bad = false) {
    const tile = this.#tiles[key];
    say(tile.value, text);
    say(tile.foot, foot.filter(Boolean).join(' · '));
    tile.value.parentElement.toggleAttribute('data-bad', bad);
    tile.course.push(Number.isFinite(number) ? number : null);
    tile.course.splice(0, tile.course.length - POINTS);
    draw(tile.drawing, tile.course, tile.name);
  }
}

const W = 120;
const H = 28;

/** Draws a course as a line, newest at the right, with its range as text for those who cannot see it. */
function draw(node, course, name) {
  const known = course.filter((n) => n !== null);
  if (known.length < 2) return;
  const [low, high] = [Math.min(...known), Math.max(...known)];
  const top = name.endsWith('rate') ? 100 : high || 1; // from 0, so that a small change looks small
  const points = course
    .map((n, i) => [W - (course.length - 1 - i) * (W / (POINTS - 1)), n])
    .filter(([, n]) => n !== null)
    .map(([x, n]) => `${x.toFixed(1)},${(H - 2 - (n / top) * (H - 4)).toFixed(1)}`);
  let svg = node.firstElementChild;
  if (!svg) {
    const make = (tag) => document.createElementNS('http://www.w3.org/2000/svg', tag);
    svg = make('svg');
    svg.setAttribute('viewBox', `0 0 ${W} ${H}`);
    svg.setAttribute('preserveAspectRatio', 'none');
    svg.setAttribute('role', 'img');
    svg.append(make('polyline'));
    node.append(svg);
  }
  svg.firstElementChild.setAttribute('points', points.join(' '));
  const round = (n) => count(Math.round(10 * n) / 10);
  svg.setAttribute('aria-label', `${name}: between ${round(low)} and ${round(high)}, now ${round(known.at(-1))}`);
}

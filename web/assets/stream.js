// The connection to /api/events: one EventSource at a time, its state, and the
// position to go on from.
//
// EventSource repairs a broken line by itself, as long as the server answers
// 200. This adds what it leaves out: a first connection from a position, a
// retry after a refused answer, a watchdog for lines that died without a word,
// and an end when the server says for good that there is nothing to hear.

import { wallClock } from './ui.js';

const PING = 20_000; // ms; the server lets no more pass between two pings
const SILENCE = 2.5 * PING; // a line that is quiet for so long is dead
const STEADY = 10_000; // ms; a line that lived so long starts the pauses anew
const FIRST_PAUSE = 500;
const LONGEST_PAUSE = 30_000;

/**
 * Events, each with a detail:
 *   state   {state, until?, status?}  connecting, open, retrying, dropped or closed
 *   change  {data, position, heard, replayed}
 *   reset   {reason}                  read everything again
 */
export class Stream extends EventTarget {
  #url;
  #source = null;
  #timer = 0;
  #pause = FIRST_PAUSE;
  #heardAt = 0; // anything at all, on this line
  #openedAt = 0;
  #resumed = false; // this line goes on from a position
  position = ''; // opaque; '' means from now on
  state = 'closed';

  constructor(url, position = '') {
    super();
    this.#url = url;
    this.position = position;
    setInterval(() => this.#watch(), 5000);
    document.addEventListener('visibilitychange', () => document.hidden || this.#wake());
    addEventListener('online', () => this.#wake());
    addEventListener('pagehide', () => this.#hangUp()); // an open line keeps a page out of the back-forward cache
    addEventListener('pageshow', (e) => e.persisted && this.state !== 'closed' && this.open());
  }

  open() {
    this.#hangUp();
    this.#resumed = this.position !== '';
    const source = new EventSource(this.#address());
    this.#source = source;
    this.#heardAt = Date.now();
    this.#become(this.state === 'retrying' ? 'retrying' : 'connecting');

    const on = (name, handle) =>
      source.addEventListener(name, (e) => {
        if (source !== this.#source) return; // a line that was replaced
        this.#heardAt = Date.now();
        if (e.lastEventId) this.position = e.lastEventId;
        handle(e);
      });
    on('open', () => {
      this.#openedAt = wallClock();
      this.#become('open');
    });
    on('message', (e) => this.#change(e));
    on('reset', (e) => this.#emit('reset', parse(e.data) ?? {}));
    on('goaway', (e) => this.#again(parse(e.data)?.retryAfterMs ?? this.#nextPause()));
    on('ready', () => {});
    on('ping', () => {});
    source.onerror = () => source === this.#source && this.#broken();
  }

  close() {
    this.#hangUp();
    this.#become('closed');
  }

  /** Hangs up, and calls again from the same position after so many ms. */
  drop(pause) {
    this.#again(pause, 'dropped');
  }

  #address() {
    const at = this.position ? `lastEventId=${encodeURIComponent(this.position)}` : '';
    return this.#url + (at && (this.#url.includes('?') ? '&' : '?') + at);
  }

  #change(e) {
    const data = parse(e.data);
    if (data === null) return;
    const heard = wallClock();
    // What happened before this line stood came from the log.
    const replayed = this.#resumed && Date.parse(data.at) < this.#openedAt;
    this.#emit('change', { data, position: e.lastEventId, heard, replayed });
  }

  #broken() {
    this.#resumed = this.position !== '';
    if (this.#source.readyState === EventSource.CONNECTING) {
      this.#become('retrying'); // it calls again by itself, after the pause that the server named
      return;
    }
    this.#askWhy();
  }

  // EventSource gives up on any answer but a stream, and does not say which it was.
  async #askWhy() {
    this.#hangUp();
    this.#become('retrying');
    const pause = this.#nextPause();
    const question = new AbortController();
    try {
      const { status } = await fetch(this.#address(), {
        headers: { Accept: 'text/event-stream' },
        cache: 'no-store',
        signal: question.signal,
      });
      if ([204, 400, 401, 403, 404].includes(status)) {
        this.#become('closed', { status });
        return;
      }
    } catch {
      // Nobody there: as good a reason to try again.
    } finally {
      question.abort();
    }
    if (this.state === 'retrying' && !this.#source) this.#again(pause);
  }

  #again(pause, state = 'retrying') {
    this.#hangUp();
    this.#become(state, { until: Date.now() + pause });
    this.#timer = setTimeout(() => this.open(), pause);
  }

  // Twice as long each time, and at random, so that a thousand pages do not call at once.
  #nextPause() {
    const steady = this.#openedAt && Date.now() - this.#openedAt > STEADY;
    this.#pause = steady ? FIRST_PAUSE : Math.min(2 * this.#pause, LONGEST_PAUSE);
    return this.#pause * (0.5 + Math.random() / 2);
  }

  #watch() {
    if (this.#source && Date.now() - this.#heardAt > SILENCE) this.#again(0);
  }

  // The page is looked at again, or the network is back: no reason to wait.
  #wake() {
    if (this.state === 'retrying' && this.#timer) this.open();
    else if (this.#source && Date.now() - this.#heardAt > 1.25 * PING) this.#again(0);
  }

  #hangUp() {
    clearTimeout(this.#timer);
    this.#timer = 0;
    this.#source?.close();
    this.#source = null;
  }

  #become(state, more = {}) {
    this.state = state;
    this.#emit('state', { state, ...more });
  }

  #emit(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

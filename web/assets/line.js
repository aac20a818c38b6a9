// One connection to /api/events, and what EventSource leaves out.
//
// EventSource repairs a broken line by itself, as long as the server answers
// 200. A Line adds a first connection from a position, a retry after a refused
// answer, a watchdog for lines that died without a word, and an end when the
// server says for good that there is nothing to hear.

const PING = 20_000; // ms; the server lets no more pass between two pings
export const SILENCE = 2.5 * PING; // a line that is quiet for so long is dead
const STEADY = 10_000; // ms; a line that lived so long starts the pauses anew
const FIRST_PAUSE = 1000;
const LONGEST_PAUSE = 30_000;
const ANSWER = 10_000; // ms; how long a server may take to say why it refused
const RESTLESS = 1000; // ms between two calls that somebody asked for
const FINAL = [204, 400, 401, 403]; // 404 is not: proxies say it in the middle of a deploy

/**
 * Tells its news to one listener, each with the line's position, its era, and when the server was heard:
 *   state   {state, until?, status?}  connecting, open, retrying or closed
 *   change  {data, after, live}       what follows the position `after`; live: without a position of its own
 *   reset   {reason}                  some may be missing before this position
 *   ready, ping
 * A reset begins an era, unless it is for lost history: positions of two eras do not compare.
 */
export class Line {
  #url;
  #listener;
  #source = null;
  #question = null; // why the server refused
  #timer = 0;
  #until = 0; // when the timer should ring; that of a hidden page may be a minute late
  #pause = FIRST_PAUSE;
  #calledAt = 0;
  #heardAt = Date.now(); // anything at all
  #openedAt = 0; // 0 while it is not
  #state = {};

  constructor(url, { position, era }, listener) {
    Object.assign(this, { position, era });
    this.#url = url;
    this.#listener = listener;
  }

  open() {
    this.#hangUp();
    this.#calledAt = Date.now();
    this.#become(this.#state.state === 'retrying' ? 'retrying' : 'connecting');
    const source = (this.#source = new EventSource(this.#address()));
    const on = (name, handle) =>
      source.addEventListener(name, (e) => {
        if (source !== this.#source) return; // was replaced
        this.#heardAt = Date.now();
        const after = this.position;
        this.position = e.lastEventId || after;
        handle(e, after);
      });
    on('open', () => {
      this.#openedAt = Date.now();
      this.#become('open');
    });
    on('message', (e, after) => {
      const data = parse(e.data);
      // The browser repeats the last id on an event without one.
      if (data !== null) this.#tell('change', { data, after, live: this.position === after });
    });
    on('reset', (e) => this.#reset(parse(e.data)?.reason));
    on('goaway', (e) => this.#again(parse(e.data)?.retryAfterMs ?? this.#nextPause()));
    // Something on the way took our position from the address.
    on('ready', (e, after) => (after && newer(this.position, after) ? this.#reset('missed') : this.#tell('ready')));
    on('ping', () => this.#tell('ping'));
    source.onerror = () => source === this.#source && this.#broken();
  }

  close() {
    this.#hangUp();
  }

  /** Goes back to an older position. */
  rewind(position) {
    this.position = position;
    if (this.#source) this.open();
  }

  /** Does what is due, however late the page's timers are. */
  tick() {
    if (this.#source ? this.#silence() > SILENCE : Date.now() >= this.#until) this.open();
  }

  /** Somebody looks, or the network is back: no reason to wait. */
  wake() {
    if (Date.now() - this.#calledAt < RESTLESS) return;
    if (this.#state.state === 'retrying' || this.#silence() > 1.25 * PING) this.open();
  }

  /** Tells the state again. */
  report() {
    this.#tell('state', this.#state);
  }

  #silence() {
    return Date.now() - Math.max(this.#heardAt, this.#calledAt);
  }

  #address() {
    const at = this.position ? `lastEventId=${encodeURIComponent(this.position)}` : '';
    return this.#url + (at && (this.#url.includes('?') ? '&' : '?') + at);
  }

  #reset(reason) {
    if (reason !== 'history_lost') this.era = this.position;
    this.#tell('reset', { reason });
  }

  #broken() {
    this.#ended();
    if (this.#source.readyState === EventSource.CONNECTING) this.#become('retrying'); // by itself, after the pause that the server named
    else this.#askWhy();
  }

  // EventSource gives up on any answer but a stream, and does not say which it was.
  async #askWhy() {
    this.#hangUp();
    this.#become('retrying');
    const question = (this.#question = new AbortController());
    this.#until = Date.now() + ANSWER;
    this.#timer = setTimeout(() => question.abort(), ANSWER);
    let status = 0;
    let wish = 0;
    try {
      const answer = await fetch(this.#address(), {
        headers: { Accept: 'text/event-stream' },
        cache: 'no-store',
        signal: question.signal,
      });
      status = answer.status;
      wish = 1000 * answer.headers.get('Retry-After') || 0;
    } catch {
      // Nobody there: as good a reason to try again.
    }
    if (question !== this.#question) return; // closed, or called again meanwhile
    if (FINAL.includes(status)) {
      this.#hangUp();
      this.#become('closed', { status });
    } else {
      this.#again(Math.max(wish, this.#nextPause()));
    }
  }

  #again(pause) {
    this.#hangUp();
    this.#until = Date.now() + pause;
    this.#timer = setTimeout(() => this.open(), pause);
    this.#become('retrying', { until: this.#until });
  }

  // Twice as long each time, and at random, so that a thousand pages do not call at once.
  #nextPause() {
    const pause = this.#pause;
    this.#pause = Math.min(2 * pause, LONGEST_PAUSE);
    return pause * (0.5 + Math.random() / 2);
  }

  #hangUp() {
    clearTimeout(this.#timer);
    this.#question?.abort();
    this.#source?.close();
    this.#source = this.#question = null;
    this.#ended();
  }

  #ended() {
    if (this.#openedAt && Date.now() - this.#openedAt > STEADY) this.#pause = FIRST_PAUSE;
    this.#openedAt = 0;
  }

  #become(state, more) {
    this.#state = { state, ...more };
    this.report();
  }

  #tell(name, more) {
    this.#listener({ name, position: this.position, era: this.era, heardAt: this.#heardAt, ...more });
  }
}

/** Whether position a is after b. What is no position is before all, so that the server judges it. */
export const newer = (a, b) => sortable(a) > sortable(b);

// Two numbers of up to 64 bits, more than a number of ours holds.
const sortable = (p) => (/^\d+-\d+$/.test(p) ? p.split('-').map((n) => n.padStart(20, '0')).join() : '');

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

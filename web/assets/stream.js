// The changes of some channels, as every page of this browser hears them.
//
// Over HTTP/1.1 a browser allows six connections to a host, so all its tabs
// share one line. The tab that holds a Web Lock leads: it has the line, and
// passes what it hears on to the others over a BroadcastChannel. When it
// closes, is frozen or goes into the back-forward cache, it gives up the lock,
// and the next in the queue leads. One that hangs, or whose line does, is robbed.
//
// Every tab knows how far it is, and each change says what it follows. So a tab
// drops what it knows already, and sees when something is missing between: then
// it asks, and the leader goes back to there, for all. Whoever leads, and
// whatever got lost between tabs, nothing is missed or told twice.
//
// Tabs share a line when they ask for the same URL. They do not join different
// channels into one: a change need not say which channel it is of (an
// application's own news), and one refused channel would silence all.
//
// Where a browser has no locks (they need https, or this very machine), every
// tab has a line of its own.

import { Line, SILENCE, newer } from './line.js';

const TICK = 5000; // ms
const PATIENCE = 2000; // ms; up to twice as long, at random, may a leader take to answer
const DEAF = 1.2 * SILENCE; // a leader that heard nothing for so long could not help itself

/**
 * Events, each with a detail:
 *   state   {state, until?, status?}  connecting, open, retrying, dropped or closed
 *   change  {data, position, replayed}
 *   reset   {reason}                  read everything again
 */
export class Stream extends EventTarget {
  #url;
  #channel = null; // to the other tabs
  #turn = null; // in the queue for the lock, or the lock itself; aborted to give it up
  #line = null; // while we lead
  #ticking = 0;
  #patience = 0; // timer; runs while a question is open
  #returning = 0; // timer of drop
  #heardAt = 0; // the server, by whoever leads
  #openedAt = 0;
  #resumed = false; // since it opened, it goes on from a position
  #until; // of the state
  #era; // undefined until we hear of one
  position = ''; // '' means from now on
  state = 'closed';

  constructor(url, position = '') {
    super();
    this.#url = new URL(url, location.href).href;
    this.position = position;
    const away = () => this.#leave();
    const back = () => this.state !== 'closed' && this.open();
    const look = () => document.hidden || this.#ask(true);
    document.addEventListener('visibilitychange', look);
    addEventListener('online', look);
    document.addEventListener('freeze', away);
    document.addEventListener('resume', back);
    addEventListener('pagehide', away); // an open line keeps a page out of the back-forward cache
    addEventListener('pageshow', (e) => e.persisted && back());
  }

  open() {
    this.#leave();
    this.#become('connecting');
    this.#heardAt = Date.now();
    this.#ticking = setInterval(() => this.#tick(), TICK);
    if (!globalThis.navigator?.locks || !globalThis.BroadcastChannel) {
      this.#lead();
      return;
    }
    this.#channel = new BroadcastChannel(this.#url);
    this.#channel.onmessage = ({ data }) => (data.name === 'ask' ? this.#answer(data) : this.#hear(data));
    this.#queue();
    this.#ask();
  }

  close() {
    this.#leave();
    this.#become('closed');
  }

  /** Leaves, and comes back after so many ms, from the same position. */
  drop(pause) {
    this.#leave();
    this.#become('dropped', { until: Date.now() + pause });
    this.#returning = setTimeout(() => this.open(), pause);
  }

  #leave() {
    clearInterval(this.#ticking);
    clearTimeout(this.#patience);
    clearTimeout(this.#returning);
    this.#patience = 0;
    this.#line?.close();
    this.#channel?.close();
    this.#turn?.abort();
    this.#line = this.#channel = this.#turn = null;
  }

  // ---- who leads --------------------------------------------------------------

  async #queue(steal = false) {
    this.#turn?.abort();
    const turn = (this.#turn = new AbortController());
    const held = () =>
      new Promise((done) => {
        if (turn !== this.#turn) return done();
        turn.signal.addEventListener('abort', done);
        this.#lead();
      });
    try {
      await navigator.locks.request(`freshwire ${this.#url}`, steal ? { steal } : { signal: turn.signal }, held);
    } catch (e) {
      if (turn !== this.#turn) return; // we gave it up
      if (e.name !== 'AbortError') return this.#lead(); // no locks for this page
      this.#line?.close(); // robbed: we did not answer
      this.#line = null;
      this.#queue();
      this.#ask();
    }
  }

  #lead() {
    clearTimeout(this.#patience);
    this.#patience = 0;
    this.#line = new Line(this.#url, { position: this.position, era: this.#era ?? '' }, (news) => {
      this.#channel?.postMessage(news);
      this.#hear(news);
    });
    this.#line.open();
  }

  /** Asks the leader for what we miss, or whether there is one. */
  #ask(wake = false) {
    if (this.#line && wake) this.#line.wake();
    if (this.#line || !this.#channel) return;
    this.#channel.postMessage({ name: 'ask', position: this.position, wake });
    this.#patience ||= setTimeout(() => this.#rob(), PATIENCE * (1 + Math.random()));
  }

  #answer({ position, wake }) {
    const line = this.#line;
    if (!line) return;
    if (position && (!line.position || newer(line.position, position))) line.rewind(position);
    else if (wake) line.wake();
    else line.tick();
    line.report();
  }

  #tick() {
    const silence = Date.now() - this.#heardAt;
    if (this.#line) this.#line.tick();
    else if (silence > DEAF) this.#rob();
    else if (this.state !== 'open' || silence > SILENCE) this.#ask();
  }

  #rob() {
    this.#queue(true);
  }

  // ---- what the leader tells, we ourselves or another -------------------------

  #hear(news) {
    this.#heardAt = news.heardAt;
    clearTimeout(this.#patience);
    this.#patience = 0;
    const stranger = news.era && news.era !== (this.#era ?? news.era); // there was a reset while we were away
    // What was lost from the log may be what another tab missed, and we did not.
    const lost = news.name === 'reset' && (news.reason !== 'history_lost' || newer(news.position, this.position));
    if (stranger || lost) {
      this.position = news.position;
      this.#emit('reset', { reason: news.reason ?? 'missed' });
    }
    this.#era = news.era || (this.#era ?? '');
    this.position ||= news.after ?? news.position;
    if (news.name === 'change') this.#change(news);
    else if (newer(news.position, this.position)) this.#ask();
    if (news.name === 'state') this.#become(news.state, news);
    if (this.state === 'closed') this.#leave(); // for good, all of us
  }

  #change({ data, after, position, live }) {
    if (!live && newer(after, this.position)) return this.#ask(); // something is missing between
    if (!live && !newer(position, this.position)) return; // known already
    if (!live) this.position = position;
    // What happened before the line stood came from the log.
    const replayed = this.#resumed && Date.parse(data.at) < this.#openedAt;
    this.#emit('change', { data, position, replayed });
  }

  #become(state, { until, status } = {}) {
    if (state === this.state && until === this.#until) return;
    if (state === 'open') this.#openedAt = Date.now();
    else this.#resumed = this.position !== '';
    this.state = state;
    this.#until = until;
    this.#emit('state', { state, until, status });
  }

  #emit(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }
}

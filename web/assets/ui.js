// Small things that both pages need. Nothing here parses text as HTML: what
// comes from outside becomes text nodes and attributes.

/** Builds an element: el('p', {class: 'note'}, 'text', child, null). */
export function el(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    node.setAttribute(key, value === true ? '' : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

export const $ = (selector) => document.querySelector(selector);

// The clock of this browser with parts of a millisecond. The monotonic clock
// stops while a laptop sleeps, so it is only believed close to the real one.
export function wallClock() {
  const fine = performance.timeOrigin + performance.now();
  return Math.abs(fine - Date.now()) < 20 ? fine : Date.now();
}

/** Milliseconds of an RFC 3339 time, with all of its decimals; NaN if it is none. */
export function timestamp(text) {
  const parts = /^(.+:\d\d)(\.\d+)?(Z|[+-]\d\d:\d\d)$/.exec(text ?? '');
  const at = parts ? Date.parse(parts[1] + parts[3]) : NaN;
  return at > 0 ? at + Number(parts[2] ?? 0) * 1000 : NaN; // Go's zero time is none either
}

export function ms(value) {
  if (!Number.isFinite(value)) return '–';
  if (value >= 59_950) return `${(value / 60_000).toFixed(1)} min`;
  if (value >= 999.5) return `${(value / 1000).toFixed(1)} s`;
  return `${value < 9.95 ? value.toFixed(1) : Math.round(value)} ms`;
}

export function clock(at) {
  if (!Number.isFinite(at)) return '–';
  const d = new Date(at);
  const two = (n) => String(n).padStart(2, '0');
  return `${two(d.getHours())}:${two(d.getMinutes())}:${two(d.getSeconds())}.${String(d.getMilliseconds()).padStart(3, '0')}`;
}

export function span(seconds) {
  if (!Number.isFinite(seconds)) return '–';
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 172_800) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86_400)} days`;
}

export const count = (n) => (Number.isFinite(n) ? n.toLocaleString('en-US') : '–');

/** Writes text into an element, only when it is another: screen readers repeat what is written again. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

const TOKEN = 'freshwire-admin-token'; // of this tab only

export const token = {
  get: () => sessionStorage.getItem(TOKEN) ?? '',
  set: (value) => (value ? sessionStorage.setItem(TOKEN, value) : sessionStorage.removeItem(TOKEN)),
};

export class HTTPError extends Error {
  constructor(status, detail) {
    super(detail || `answered ${status}`);
    this.status = status;
  }
  get refused() {
    return this.status === 401 || this.status === 403;
  }
}

/** Fetches JSON of an admin endpoint, with the token if there is one. */
export async function ask(url) {
  const headers = token.get() ? { Authorization: `Bearer ${token.get()}` } : {};
  return json(await fetch(url, { headers, cache: 'no-store' }));
}

/** The JSON of a response; an HTTPError with the problem's detail if it is none of success. */
export async function json(response) {
  const body = await response.json().catch(() => null);
  if (!response.ok || body === null) throw new HTTPError(response.status, body?.detail);
  return body;
}

// Fetched before it is needed: when the stream is down, the server may be too.
const icon = fetch('/favicon.svg').then((response) => response.text());

/** Shows a stream's state: in the pill, the favicon, and <html data-stream>. */
export async function showState(pill, { state, until, status }) {
  const seconds = until ? Math.max(1, Math.ceil((until - Date.now()) / 1000)) : 0;
  pill.dataset.state = state;
  say(pill, (state === 'open' ? 'connected' : state) + (seconds ? ` · ${seconds} s` : '') + (status ? ` · ${status}` : ''));
  document.documentElement.dataset.stream = state;
  const down = !['connecting', 'open', 'polling'].includes(state);
  const link = $('link[rel=icon]');
  if (down === (link.dataset.down === '')) return;
  link.toggleAttribute('data-down', down);
  link.href = down ? `data:image/svg+xml,${encodeURIComponent((await icon).replace(/#\w{6}/, '#c22f1f'))}` : '/favicon.svg';
}

/** Shows every state of a stream, counting down where it waits. */
export function followState(stream, pill, translate = (detail) => detail) {
  let counting = 0;
  stream.addEventListener('state', ({ detail }) => {
    const shown = translate(detail);
    clearInterval(counting);
    showState(pill, shown);
    if (shown.until) counting = setInterval(() => showState(pill, shown), 500);
  });
}

/** Makes a switch of a button that pauses a feed. */
export function pauseSwitch(button, feed) {
  button.addEventListener('click', () => {
    const on = button.getAttribute('aria-pressed') !== 'true';
    button.setAttribute('aria-pressed', on);
    feed.pause(on);
  });
  feed.addEventListener('waiting', ({ detail }) => say(button, detail.n ? `Pause · ${count(detail.n)} new` : 'Pause'));
}

// The gallery: what is asked for stands in `asked` and in the address; everything shown follows from it.

const PAGE = 60;
const DEBOUNCE = 140;
const $ = (id) => document.getElementById(id);
const form = $("ask"), text = $("text"), not = $("not"), within = $("within"), grid = $("grid");

let albums = [];
let asked = { album: "", text: "", not: "", like: null, within: null };
let mine = null; // a picture of the person's own: { embedding, url, name }
let last = null; // [distance, rowid] of the last picture shown
let running = null; // the search under way
let timer = 0;

async function call(path, options) {
  const answer = await fetch(path, options);
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
}

// ---- what is asked for, in the address

function read() {
  const from = new URLSearchParams(location.hash.slice(1));
  const number = (name) => (from.has(name) && Number.isFinite(+from.get(name)) ? +from.get(name) : null);
  const album = albums.find((it) => it.name === from.get("in")) ?? albums[0];
  asked = {
    album: album?.name ?? "",
    text: from.get("q") ?? "",
    not: from.get("not") ?? "",
    like: number("like"),
    within: number("within"),
  };
  if (!from.has("mine")) forget();
}

function write(step) {
  const to = new URLSearchParams();
  if (asked.album !== albums[0]?.name) to.set("in", asked.album);
  if (asked.text) to.set("q", asked.text);
  if (asked.not) to.set("not", asked.not);
  if (asked.like !== null) to.set("like", asked.like);
  if (mine) to.set("mine", mine.name);
  if (asked.within !== null) to.set("within", asked.within);
  const address = `#${to}`;
  if (address === (location.hash || "#")) return;
  history[step ? "pushState" : "replaceState"](null, "", address);
}

function ask(change, step = true) {
  Object.assign(asked, change);
  write(step);
  show();
}

function forget() {
  if (mine) URL.revokeObjectURL(mine.url);
  mine = null;
}

// ---- searching

function show() {
  if (document.activeElement !== text || text.value.trim() !== asked.text) text.value = asked.text;
  if (document.activeElement !== not || not.value.trim() !== asked.not) not.value = asked.not;
  within.value = asked.within ?? within.max;
  name_distance();
  $("album").value = asked.album;
  start();
  search();
}

function name_distance() {
  const far = +within.value >= +within.max;
  $("near").textContent = far ? "any distance" : `nearer than ${(+within.value).toFixed(2)}`;
}

async function search(further = false) {
  running?.abort();
  const mark = (running = new AbortController());
  const body = { ...asked, count: PAGE, after: further ? last : null };
  if (mine) Object.assign(body, { like: null, embedding: mine.embedding });
  try {
    const answer = await call("api/search", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
      signal: mark.signal,
    });
    fill(answer, further);
  } catch (err) {
    if (err.name === "AbortError") return;
    say(err instanceof TypeError ? "The gallery has been stopped (start it again, then reload)." : err.message, "wrong");
    if (!further) grid.replaceChildren();
    $("more").hidden = true;
  } finally {
    if (running === mark) {
      running = null;
      reach();
    }
  }
}

function fill({ hits, more }, further) {
  const tiles = hits.map(tile);
  if (further) grid.append(...tiles);
  else {
    grid.replaceChildren(...tiles);
    scrollTo({ top: 0 });
  }
  if (hits.length) last = [hits.at(-1).distance ?? 0, hits.at(-1).rowid];
  $("more").hidden = !more;
  const album = current();
  if (grid.childElementCount) say(album.pictures ? "" : album.why, "");
  else if (asked.within !== null && searching()) say(`Nothing is nearer than ${asked.within.toFixed(2)}. Move the slider to see what is farther away.`, "empty");
  else if (asked.like !== null) say("Nothing else is indexed.", "empty");
  else if (before) say("The first pictures are being indexed.", "empty");
  else say("Nothing is indexed yet. Run: dualpath index FOLDER", "empty");
}

const searching = () => Boolean(asked.text || mine || asked.like !== null);
const current = () => albums.find((it) => it.name === asked.album) ?? {};

function say(words, kind) {
  $("say").textContent = words ?? "";
  $("say").className = kind;
}

// ---- pictures

const address = (rowid, side) => `picture/${encodeURIComponent(asked.album)}/${rowid}?side=${side}`;

// Tiles stay while the order changes, so that typing does not flicker.
function tile(hit) {
  const key = `${asked.album} ${hit.rowid}`;
  let it = [...grid.children].find((old) => old.dataset.key === key);
  if (!it) {
    it = document.createElement("button");
    it.type = "button";
    it.className = "tile";
    it.setAttribute("role", "listitem");
    it.dataset.key = key;
    const frame = document.createElement("span");
    frame.className = "frame";
    picture(frame, hit.rowid, hit.title, "small");
    const words = document.createElement("span");
    words.className = "words";
    words.append(document.createElement("span"), document.createElement("b"));
    it.append(frame, words);
  }
  it.dataset.rowid = hit.rowid;
  it.dataset.title = hit.title ?? "";
  const name = hit.title?.split("/").at(-1) ?? `row ${hit.rowid}`;
  const [title, score] = it.lastChild.children;
  title.textContent = current().sentences ? "" : name;
  title.title = hit.title ?? "";
  score.textContent = hit.distance === null ? "" : hit.distance.toFixed(3);
  it.setAttribute("aria-label", hit.distance === null ? name : `${name}, distance ${hit.distance.toFixed(2)}`);
  return it;
}

function picture(frame, rowid, title, side) {
  const album = current();
  if (album.sentences) return gap(frame, null, title ?? `row ${rowid}`);
  if (!album.pictures) return gap(frame, rowid, "not kept");
  const img = document.createElement("img");
  img.alt = title ?? `row ${rowid}`;
  img.decoding = "async";
  if (side === "small") img.loading = "lazy";
  img.className = "waits";
  img.onload = () => img.classList.remove("waits");
  img.onerror = async () => {
    let reason = "it cannot be shown";
    try {
      const answer = await fetch(img.src);
      if (!answer.ok) reason = await answer.text();
    } catch {
      reason = "the gallery has been stopped";
    }
    gap(frame, rowid, reason);
  };
  img.src = address(rowid, side);
  frame.replaceChildren(img);
}

function gap(frame, rowid, reason) {
  const box = document.createElement("span");
  box.className = rowid === null ? "gap sentence" : "gap";
  if (rowid !== null) {
    const row = document.createElement("strong");
    row.textContent = rowid;
    const why = document.createElement("small");
    // What to do about it stands in brackets at the end, and here in the title.
    why.textContent = reason.replace(/ \([^()]*\)$/, "");
    box.append(row, why);
    box.title = reason;
  } else box.textContent = reason;
  frame.replaceChildren(box);
}

// ---- the picture it starts from

let shown = "";
async function start() {
  const at = mine ? mine.url : asked.like === null ? "" : `${asked.album} ${asked.like}`;
  $("start").hidden = $("chosen").hidden = !at;
  if (at === shown) return;
  shown = at;
  if (!at) return $("view").replaceChildren();
  const round = $("chosen").querySelector("img");
  if (mine) {
    const img = new Image();
    img.src = round.src = mine.url;
    img.alt = mine.name;
    // Browsers show less than can be searched by, such as HEIC.
    img.onerror = () => gap($("view"), null, "This browser cannot show it; it is searched by all the same.");
    $("view").replaceChildren(img);
    $("start").querySelector("p").textContent = mine.name;
    return;
  }
  const rowid = asked.like;
  round.removeAttribute("src");
  if (current().pictures) round.src = address(rowid, "small");
  $("start").querySelector("p").textContent = "";
  picture($("view"), rowid, null, "large");
  try {
    const { title } = await call(`api/title?album=${encodeURIComponent(asked.album)}&row=${rowid}`);
    if (shown !== at) return;
    $("start").querySelector("p").textContent = title ?? `row ${rowid}`;
    if (current().sentences) picture($("view"), rowid, title, "large");
  } catch {
    // The search says what is wrong with the row.
  }
}

async function take(file) {
  if (!file) return;
  if (file.type && !file.type.startsWith("image/")) return say(`${file.name} is no picture (JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF and HEIC are read).`, "wrong");
  say("Looking at your picture …", "");
  try {
    const { embedding } = await call(`api/picture?album=${encodeURIComponent(asked.album)}`, { method: "POST", headers: { "content-type": "application/octet-stream" }, body: file });
    forget();
    mine = { embedding, url: URL.createObjectURL(file), name: file.name || "your picture" };
    ask({ like: null });
  } catch (err) {
    say(err.message, "wrong");
  }
}

function enlarge(rowid, title) {
  const box = $("large").querySelector("div");
  $("large").dataset.rowid = rowid ?? "";
  if (rowid === null) {
    const img = new Image();
    img.src = mine.url;
    img.alt = mine.name;
    box.replaceChildren(img);
  } else picture(box, rowid, title, "large");
  $("large").querySelector("figcaption").textContent = title ?? "";
  if (!$("large").open) $("large").showModal();
}

// ---- what is indexed

let before = null; // the sync that is watched: { done, moved, from, since }
let next = 0;
let turns = 0;
async function watch() {
  let pause = 20000;
  clearTimeout(next);
  const turn = ++turns;
  try {
    const state = await call(`api/state?album=${encodeURIComponent(asked.album)}`);
    if (turn !== turns) return;
    const done = state.indexed + state.skipped;
    const open = state.unfinished || done < state.of;
    const now = performance.now();
    if (open) {
      pause = 1000;
      before ??= { done, shown: done, since: now, moved: -Infinity, from: done };
      if (done !== before.done) Object.assign(before, { done, moved: now });
    }
    const grew = before !== null && done !== before.shown;
    if (!open) before = null;
    describe(state, open && now - before.moved < 10000, now);
    // What is new is shown where nobody has begun to look.
    if (grew && scrollY === 0 && !running && grid.childElementCount < PAGE) search();
    if (before) before.shown = done;
  } catch {
    pause = 5000;
  }
  next = setTimeout(watch, pause);
}

function describe(state, moves, now) {
  const { indexed, skipped, of } = state;
  const number = (it) => it.toLocaleString("en");
  const kind = current().pictures ? (of === 1 ? "picture" : "pictures") : current().sentences ? "sentences" : "rows";
  $("progress").hidden = !moves;
  let words = `${number(indexed)} ${kind}`;
  if (moves) {
    const share = (indexed + skipped) / Math.max(of, 1);
    $("progress").firstElementChild.style.width = `${100 * share}%`;
    $("progress").setAttribute("aria-valuenow", Math.round(100 * share));
    const pace = (before.done - before.from) / (now - before.since);
    const left = pace > 0 ? (of - before.done) / pace / 1000 : 0;
    words = `indexing ${number(indexed + skipped)} of ${number(of)}`;
    if (left >= 1) words += `, ${left < 90 ? `${Math.ceil(left)} s` : `${Math.ceil(left / 60)} min`} left`;
  } else if (indexed + skipped < of) words = `${number(indexed)} of ${number(of)} ${kind}`;
  $("about").textContent = words;

  const facts = [`${number(indexed)} of ${number(of)} ${kind} in ${asked.album}, ${state.database}`];
  if (indexed + skipped < of && !moves) facts.push("The rest waits for the next sync (dualpath index, or SELECT dualpath_sync).");
  if (skipped) facts.push(`${number(skipped)} cannot be read:`);
  const lines = facts.map((it) => Object.assign(document.createElement("p"), { textContent: it }));
  if (skipped) {
    const list = document.createElement("ul");
    for (const { row, title, reason } of state.left_out) {
      const line = document.createElement("li");
      line.append(Object.assign(document.createElement("b"), { textContent: title ?? `row ${row}` }), ` ${reason}`);
      list.append(line);
    }
    if (state.left_out.length < skipped) list.append(Object.assign(document.createElement("li"), { textContent: `... and ${number(skipped - state.left_out.length)} more` }));
    lines.push(list);
  }
  $("facts").replaceChildren(...lines);
}

// ---- what people do

function later(change) {
  clearTimeout(timer);
  timer = setTimeout(() => ask(change(), false), DEBOUNCE);
}
const typed = () => ({ text: text.value.trim(), not: not.value.trim() });
text.addEventListener("input", () => later(typed));
not.addEventListener("input", () => later(typed));
within.addEventListener("input", () => {
  name_distance();
  later(() => ({ within: +within.value >= +within.max ? null : +within.value }));
});
form.addEventListener("submit", (event) => {
  event.preventDefault();
  clearTimeout(timer);
  ask(typed());
});
$("album").addEventListener("change", () => {
  forget();
  before = null;
  clearTimeout(timer);
  ask({ album: $("album").value, like: null });
  watch();
});
$("chosen").addEventListener("click", () => {
  forget();
  ask({ like: null });
  text.focus();
});
$("file").addEventListener("change", () => {
  take($("file").files[0]);
  $("file").value = "";
});
$("view").addEventListener("click", () => enlarge(mine ? null : asked.like, $("start").querySelector("p").textContent));
$("more").addEventListener("click", () => search(true));
$("about").addEventListener("click", () => $("help").showModal());
$("large").addEventListener("click", () => $("large").close());
$("large").addEventListener("close", () => grid.querySelector(`[data-rowid="${$("large").dataset.rowid}"]`)?.focus());
grid.addEventListener("click", (event) => {
  const it = event.target.closest(".tile");
  if (!it) return;
  forget();
  ask({ like: +it.dataset.rowid, text: "", not: "" });
  grid.firstElementChild?.focus({ preventScroll: true });
});
addEventListener("popstate", () => {
  read();
  show();
});
addEventListener("paste", (event) => {
  const file = [...(event.clipboardData?.files ?? [])][0];
  if (file) take(file);
});

let over = 0;
const carries = (event) => event.dataTransfer?.types.includes("Files");
addEventListener("dragenter", (event) => {
  if (carries(event)) $("drop").hidden = !++over;
});
addEventListener("dragleave", (event) => {
  if (carries(event)) $("drop").hidden = !(over = Math.max(0, over - 1));
});
addEventListener("dragover", (event) => {
  if (carries(event)) event.preventDefault();
});
addEventListener("drop", (event) => {
  if (!carries(event)) return;
  event.preventDefault();
  over = 0;
  $("drop").hidden = true;
  take(event.dataTransfer.files[0]);
});

// Pictures in a row of the grid, as wide as the window makes it.
const columns = () => getComputedStyle(grid).gridTemplateColumns.split(" ").length;
function step(key, from, count) {
  const moves = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns(), ArrowUp: -columns(), Home: -Infinity, End: Infinity };
  return key in moves ? Math.min(Math.max(from + moves[key], 0), count - 1) : null;
}
addEventListener("keydown", (event) => {
  const { key, target } = event;
  if (event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
  const tiles = [...grid.children];
  if ($("large").open) {
    const from = tiles.findIndex((it) => it.dataset.rowid === $("large").dataset.rowid);
    const to = from < 0 ? null : step(key, from, tiles.length);
    if (key === " ") $("large").close();
    else if (to !== null) {
      enlarge(+tiles[to].dataset.rowid, tiles[to].dataset.title);
    } else return;
    event.preventDefault();
    return;
  }
  const writes = target === text || target === not;
  const at = tiles.indexOf(target);
  if (at >= 0) {
    const to = step(key, at, tiles.length);
    if (key === " ") enlarge(+target.dataset.rowid, target.dataset.title);
    else if (key === "ArrowUp" && at < columns()) text.focus();
    else if (to !== null) tiles[to].focus();
    else if (key === "/" || key === "?" || key === "Escape") return keys(event);
    else return;
    event.preventDefault();
  } else if (writes && key === "ArrowDown" && tiles.length) {
    tiles[0].focus();
    event.preventDefault();
  } else if (!writes || key === "Escape") keys(event);
});
function keys(event) {
  if (event.key === "/") text.focus();
  else if (event.key === "?") $("help").showModal();
  else if (event.key === "Escape" && (searching() || asked.not || asked.within !== null)) {
    forget();
    clearTimeout(timer);
    ask({ text: "", not: "", like: null, within: null });
    text.value = not.value = "";
    text.focus();
  } else return;
  event.preventDefault();
}

// The next page comes before its place is reached.
function reach() {
  const near = $("more").getBoundingClientRect().top < innerHeight + 600;
  if (near && !$("more").hidden && !running) search(true);
}
addEventListener("scroll", reach, { passive: true });
addEventListener("resize", reach);

try {
  albums = await call("api/albums");
  for (const { name } of albums) $("album").append(new Option(name, name));
  document.querySelector("label.album").hidden = albums.length < 2;
  read();
  if (new URLSearchParams(location.hash.slice(1)).has("mine")) write(false);
  show();
  watch();
} catch (err) {
  say(err.message, "wrong");
}

// The gallery in a real browser. Run by scripts/test-gallery, with the browser, the tool, a folder of
// photographs and one for screenshots.
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import http from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { chromium } from "playwright-core";

const [executablePath, tool, photos, shots] = process.argv.slice(2);
const MANY = 1000;
const place = mkdtempSync(join(tmpdir(), "gallery-"));
const children = [];

function run(...given) {
  const { status, stderr } = spawnSync(tool, given, { encoding: "utf8" });
  assert.equal(status, 0, stderr);
}

async function serve(...given) {
  const child = spawn(tool, ["gallery", "--port", "0", ...given], { stdio: ["ignore", "pipe", "inherit"] });
  children.push(child);
  const address = await new Promise((done, fail) => {
    child.stdout.once("data", (it) => done(String(it).trim()));
    child.once("exit", (code) => fail(new Error(`the gallery ended with ${code}`)));
  });
  return address;
}

function get(address, headers, options = {}) {
  return new Promise((done, fail) => {
    const request = http.request(address, { headers, ...options }, (answer) => {
      let body = "";
      answer.on("data", (it) => (body += it));
      answer.on("end", () => done({ status: answer.statusCode, headers: answer.headers, body }));
    });
    request.on("error", fail).end(options.body);
  });
}

// A picture of two colours, a few bytes large.
function bmp(number) {
  const head = Buffer.from("424d7e000000000000003600000028000000060000000400000001001800000000000000000000000000000000000000000000000000", "hex");
  const rows = Array.from({ length: 4 }, (_, y) => Buffer.from(Array.from({ length: 20 }, (_, x) => (number * (x % 3 + 3) * (y + 7) * 2654435761) >>> 24)));
  return Buffer.concat([head, ...rows]);
}

const browser = await chromium.launch({
  executablePath,
  headless: true,
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
});

// A page, and what must not happen on it.
async function open(address, options) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 860 }, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(30000);
  page.wrong = [];
  page.searches = 0;
  page.on("pageerror", (it) => page.wrong.push(it.message));
  page.on("console", (it) => it.type() === "error" && !/status of 422/.test(it.text()) && page.wrong.push(it.text()));
  page.on("request", (it) => {
    if (!it.url().startsWith(new URL(address).origin) && !it.url().startsWith("blob:")) page.wrong.push(`asks ${it.url()}`);
    if (it.url().endsWith("/api/search")) page.searches++;
  });
  await page.goto(address);
  await page.waitForSelector(".tile, #say:not(:empty)");
  return page;
}

const titles = (page) => page.$$eval(".tile .words span", (all) => all.map((it) => it.textContent));
const scores = (page) => page.$$eval(".tile .words b", (all) => all.map((it) => it.textContent));
const first = (page, name) => page.waitForFunction((name) => document.querySelector(".tile .words span")?.textContent === name, name);
const seen = (page) => page.waitForFunction(() => [...document.querySelectorAll(".frame img")].filter((it) => it.getBoundingClientRect().top < innerHeight).every((it) => it.complete && !it.classList.contains("waits")));
async function shot(page, name) {
  await seen(page);
  await page.waitForTimeout(400);
  await page.screenshot({ path: join(shots, `${name}.png`) });
}

async function drop(page, file, name, type) {
  const bytes = [...readFileSync(file)];
  const data = await page.evaluateHandle(
    ([bytes, name, type]) => {
      const data = new DataTransfer();
      data.items.add(new File([new Uint8Array(bytes)], name, { type }));
      return data;
    },
    [bytes, name, type],
  );
  await page.dispatchEvent("body", "dragenter", { dataTransfer: data });
  assert.ok(await page.isVisible("#drop"));
  await page.dispatchEvent("body", "drop", { dataTransfer: data });
  assert.ok(!(await page.isVisible("#drop")));
}

const tests = {
  async "shows what is indexed, and searches while one types"(page) {
    assert.equal((await titles(page)).length, 13);
    assert.deepEqual([...new Set(await scores(page))], [""]);
    await page.waitForFunction(() => document.getElementById("about").textContent === "13 pictures");
    await shot(page, "start");
    const before = page.searches;
    await page.locator("#text").pressSequentially("an orange flower", { delay: 15 });
    await first(page, "flower.jpg");
    assert.ok(page.searches - before < 6, `${page.searches - before} searches for sixteen letters`);
    const numbers = (await scores(page)).map(Number);
    assert.ok(numbers[0] > 0 && numbers.every((it, at) => at === 0 || numbers[at - 1] <= it), `${numbers}`);
    assert.match(page.url(), /#q=an\+orange\+flower$/);
    await shot(page, "sentence");
  },

  async "takes away, and ends at a distance"(page) {
    await page.fill("#text", "an orange flower");
    await first(page, "flower.jpg");
    const near = Number((await scores(page))[0]);
    await page.fill("#not", "a flower");
    await page.waitForFunction((near) => +document.querySelector(".tile b").textContent > near + 0.01, near);
    await page.fill("#not", "");
    await page.waitForFunction((near) => +document.querySelector(".tile b").textContent === near, near);
    await page.fill("#within", "0.55");
    await page.waitForFunction(() => document.querySelectorAll(".tile").length < 13);
    assert.ok((await scores(page)).every((it) => +it < 0.55));
    assert.equal(await page.textContent("#near"), "nearer than 0.55");
    await page.fill("#within", "0.2");
    await page.waitForSelector("#say.empty");
    assert.match(await page.textContent("#say"), /Nothing is nearer than 0.20/);
    await shot(page, "empty");
  },

  async "finds similar ones by a click, and goes back"(page) {
    await page.fill("#text", "a red bowl on a table");
    await first(page, "coffee.png");
    await page.click(".tile >> nth=0");
    await page.waitForSelector("#start:not([hidden]) #view img:not(.waits)");
    await page.waitForFunction(() => document.querySelector("#start p").textContent === "coffee.png");
    assert.ok(!(await titles(page)).includes("coffee.png"));
    assert.equal(await page.inputValue("#text"), "");
    await shot(page, "similar");
    const alone = await scores(page);
    await page.fill("#text", "an orange flower");
    await page.waitForFunction((alone) => document.querySelector(".tile b").textContent !== alone, alone[0]);
    assert.match(page.url(), /q=an\+orange\+flower&like=\d+$/);
    await page.goBack();
    await page.waitForSelector("#start", { state: "hidden" });
    await first(page, "coffee.png");
    assert.equal(await page.inputValue("#text"), "a red bowl on a table");
  },

  async "searches by a picture that is dropped"(page) {
    await drop(page, join(photos, "flower.jpg"), "mine.jpg", "image/jpeg");
    await first(page, "flower.jpg");
    assert.equal(await page.textContent("#start p"), "mine.jpg");
    assert.ok(Number((await scores(page))[0]) < 0.01);
    await page.waitForFunction(() => document.querySelector("#view img").naturalWidth > 0);
    await shot(page, "dropped");
    await page.click("#chosen");
    await page.waitForSelector("#start", { state: "hidden" });
    await drop(page, join(photos, "LICENCES.txt"), "notes.txt", "text/plain");
    assert.match(await page.textContent("#say.wrong"), /notes.txt is no picture/);
    await drop(page, join(photos, "LICENCES.txt"), "notes.jpg", "image/jpeg");
    await page.waitForFunction(() => /cannot be read/.test(document.getElementById("say").textContent));
    await page.setInputFiles("#file", join(photos, "rocket.jpg"));
    await first(page, "rocket.jpg");
  },

  async "works by keyboard"(page) {
    const has = (selector) => page.evaluate((it) => document.activeElement?.matches(it), selector);
    await page.locator("#about").focus();
    await page.keyboard.press("/");
    assert.ok(await has("#text"));
    await page.keyboard.type("a cat?");
    await first(page, "chelsea.png");
    await page.keyboard.press("ArrowDown");
    assert.ok(await has(".tile:first-child"));
    await page.keyboard.press("ArrowRight");
    assert.ok(await has(".tile:nth-child(2)"));
    await page.keyboard.press("ArrowLeft");
    await page.keyboard.press("Space");
    await page.waitForSelector("#large[open] img:not(.waits)");
    assert.equal(await page.textContent("#large figcaption"), "chelsea.png");
    await shot(page, "large");
    await page.keyboard.press("ArrowRight");
    await page.waitForFunction(() => document.querySelector("#large figcaption").textContent !== "chelsea.png");
    await page.keyboard.press("Escape");
    assert.ok(!(await page.isVisible("#large")));
    // The dialog's own event gives the focus back, a moment after it is gone.
    await page.waitForFunction(() => document.activeElement?.matches(".tile:nth-child(2)"));
    await page.keyboard.press("Home");
    await page.keyboard.press("Enter");
    await page.waitForFunction(() => document.querySelector("#start p").textContent === "chelsea.png");
    await page.keyboard.press("Escape");
    await page.waitForFunction(() => document.querySelectorAll(".tile").length === 13);
    assert.ok(await has("#text"));
    await page.locator("#about").focus();
    await page.keyboard.press("?");
    assert.ok(await page.isVisible("#help"));
    await shot(page, "help");
    await page.keyboard.press("Escape");
    assert.ok(!(await page.isVisible("#help")));
  },

  async "says why a picture is missing"(page) {
    const gap = page.locator(".gap", { hasText: "cannot be read" });
    await gap.waitFor();
    assert.match(await gap.textContent(), /^\d+/);
    await page.click("#about");
    await page.waitForFunction(() => /1 cannot be read/.test(document.getElementById("facts").textContent));
    assert.match(await page.textContent("#facts li"), /^no-picture.jpg .*no known signature/);
  },

  async "lets nothing in from elsewhere"(page, address) {
    const ran = await page.evaluate(() => {
      const script = document.createElement("script");
      script.textContent = "window.inline = true";
      document.body.append(script);
      return Boolean(window.inline);
    });
    assert.ok(!ran);
    page.wrong = page.wrong.filter((it) => !/Content Security Policy/.test(it));
    const { host } = new URL(address);
    assert.equal((await get(address, { host })).status, 200);
    for (const name of ["evil.example", `evil.example:${host.split(":")[1]}`, "127.0.0.1", "localhost"]) {
      assert.equal((await get(address, { host: name })).status, 403, name);
    }
    const search = (headers) => get(`${address}api/search`, { host, "content-type": "application/json", ...headers }, { method: "POST", body: '{"album":"album","count":1}' });
    assert.equal((await search({})).status, 200);
    assert.equal((await search({ origin: "http://evil.example" })).status, 403);
    assert.equal((await search({ "sec-fetch-site": "cross-site" })).status, 403);
    assert.equal((await search({ "content-type": "text/plain" })).status, 415);
    for (const path of ["picture/album/..%2F..%2Fetc%2Fpasswd?side=small", "picture/album/flower.jpg?side=small", "..%2FCargo.toml", "picture/album/1?side=9999"]) {
      const answer = await get(address + path, { host });
      assert.ok([400, 404].includes(answer.status), `${path}: ${answer.status}`);
    }
    const answer = await get(`${address}picture/album/99999?side=small`, { host });
    assert.equal(answer.status, 422);
    assert.match(answer.headers["content-security-policy"], /default-src 'none'/);
    assert.equal(answer.headers["x-content-type-options"], "nosniff");
  },
};

async function phone(address) {
  const page = await open(`${address}#q=an+orange+flower`, { viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true });
  await first(page, "flower.jpg");
  assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth));
  await shot(page, "phone");
  await page.tap(".tile >> nth=0");
  await page.waitForSelector("#start:not([hidden]) #view img:not(.waits)");
  assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth));
  await shot(page, "phone-similar");
  assert.deepEqual(page.wrong, []);
}

async function dark(address) {
  const page = await open(`${address}#q=an+orange+flower`, { colorScheme: "dark" });
  await first(page, "flower.jpg");
  const [red] = await page.evaluate(() => getComputedStyle(document.documentElement).backgroundColor.match(/\d+/g).map(Number));
  assert.ok(red < 60);
  await shot(page, "dark");
  await page.click(".tile >> nth=0");
  await page.waitForSelector("#start:not([hidden]) #view img:not(.waits)");
  await shot(page, "dark-similar");
  assert.deepEqual(page.wrong, []);
}

// A sync of another process is seen while it runs; then all pictures can be paged through.
async function many(folder, sync, seen) {
  const page = await open(await serve(folder));
  await page.waitForSelector("#progress:not([hidden])");
  assert.match(await page.textContent("#about"), /^indexing [\d,]+ of 1,012/);
  await page.waitForSelector(".tile");
  await shot(page, "indexing");
  seen();
  assert.equal(await sync, 0);
  await page.waitForFunction(() => document.getElementById("about").textContent === "1,012 pictures", null, { timeout: 60000 });
  await page.fill("#text", "people in front of a large building");
  await first(page, "china.jpg");
  await shot(page, "many");
  for (let before = -1; await page.isVisible("#more"); ) {
    await page.evaluate(() => scrollTo(0, document.body.scrollHeight));
    await page.waitForFunction((before) => document.querySelectorAll(".tile").length > before || document.getElementById("more").hidden, before);
    before = await page.locator(".tile").count();
  }
  const rows = await page.$$eval(".tile", (all) => all.map((it) => it.dataset.rowid));
  assert.equal(rows.length, MANY + 12);
  assert.equal(new Set(rows).size, MANY + 12);
  const numbers = (await scores(page)).map(Number);
  assert.ok(numbers.every((it, at) => at === 0 || numbers[at - 1] <= it));
  assert.deepEqual(page.wrong, []);
}

// Tables of other programs: blobs, no pictures, sentences.
async function others() {
  const library = join(tool, "../deps/libdualpath");
  const database = join(place, "others.db");
  const { status, stderr, error } = spawnSync("sqlite3", ["-bail", "-cmd", `.load ${library}`, database], {
    encoding: "utf8",
    input: `CREATE TABLE shots(id INTEGER PRIMARY KEY, title TEXT, jpeg BLOB);
      INSERT INTO shots(title, jpeg) VALUES ('A rocket', readfile('${photos}/rocket.jpg')), ('Coffee', readfile('${photos}/coffee.png'));
      CREATE VIRTUAL TABLE blobs USING dualpath(content = 'shots', content_rowid = 'id', image = 'jpeg', text = 'title');
      SELECT dualpath_sync('blobs');
      CREATE VIRTUAL TABLE kept USING dualpath;
      INSERT INTO kept(rowid, image) SELECT 40 + id, jpeg FROM shots;
      CREATE VIRTUAL TABLE said USING dualpath(content = 'shots', content_rowid = 'id', text = 'title');
      SELECT dualpath_sync('said');
      CREATE VIRTUAL TABLE vectors USING dualpath(dimensions = 2);
      INSERT INTO vectors(embedding) VALUES (embed_from_json('[1, 0]')), (embed_from_json('[0, 1]'));`,
  });
  if (error) return console.log("skipped: tables of other programs (no sqlite3)");
  assert.equal(status, 0, stderr);
  const page = await open(await serve(database));
  await page.fill("#text", "a red bowl on a table");
  await first(page, "Coffee");
  assert.deepEqual(await titles(page), ["Coffee", "A rocket"]);
  await seen(page);
  await page.selectOption("#album", "kept");
  await page.waitForFunction(() => document.getElementById("about").textContent === "2 rows");
  await page.waitForFunction(() => document.querySelector(".gap strong")?.textContent === "42");
  assert.match(await page.textContent("#say"), /keeps embeddings and no pictures/);
  await shot(page, "not-kept");
  await page.selectOption("#album", "said");
  await page.waitForFunction(() => document.querySelector(".gap.sentence")?.textContent === "Coffee");
  await shot(page, "sentences");
  await page.selectOption("#album", "vectors");
  await page.waitForFunction(() => /it has no words/.test(document.querySelector("#say.wrong")?.textContent));
  await page.fill("#text", "");
  await page.click(".tile >> nth=0");
  await page.waitForFunction(() => document.querySelector(".tile b")?.textContent === "1.000");
  assert.deepEqual(page.wrong, []);
}

// A database beside its folder reads the pictures only when the folder is named; the README's picture.
async function elsewhere() {
  const database = join(place, "twelve.db");
  run("index", "--quiet", "--db", database, photos);
  const blind = await open(await serve(database));
  await blind.waitForFunction(() => document.querySelector(".gap"));
  await blind.context().close();
  const page = await open(await serve(database, "--root", photos), { viewport: { width: 1280, height: 800 } });
  await page.fill("#text", "an orange flower");
  await first(page, "flower.jpg");
  await page.evaluate(() => document.activeElement.blur());
  await seen(page);
  await page.waitForTimeout(400);
  await page.screenshot({ path: join(shots, "readme.jpg"), type: "jpeg", quality: 82 });
  assert.deepEqual(page.wrong, []);
}

async function token(folder) {
  const address = new URL((await serve(folder, "--listen", "0.0.0.0")).replace("0.0.0.0", "127.0.0.1"));
  assert.equal((await get(address.origin, {})).status, 401);
  assert.equal((await get(`${address.origin}/?token=${"0".repeat(32)}`, {})).status, 401);
  assert.equal((await get(`${address.origin}/picture/album/1?side=small`, {})).status, 401);
  const page = await open(address.href);
  await seen(page);
  assert.equal(await page.locator(".tile").count(), 13);
  assert.ok(!page.url().includes("token"));
  assert.deepEqual(page.wrong, []);
}

try {
  const [small, large] = ["small", "large"].map((it) => join(place, it));
  // Without the database that the demo may have left, perhaps by another model.
  const filter = (it) => !it.includes(".dualpath.db");
  for (const folder of [small, large]) cpSync(photos, folder, { recursive: true, filter });
  writeFileSync(join(small, "no-picture.jpg"), "no picture");
  writeFileSync(join(small, "spoilt.bmp"), bmp(3));
  for (let number = 0; number < MANY; number++) writeFileSync(join(large, `square-${String(number).padStart(4, "0")}.bmp`), bmp(number));
  run("index", "--quiet", small);
  writeFileSync(join(small, "spoilt.bmp"), "spoilt after it was indexed");

  const address = await serve(small);
  for (const [name, test] of Object.entries(tests)) {
    const page = await open(address);
    await test(page, address);
    assert.deepEqual(page.wrong, [], name);
    await page.context().close();
    console.log(`ok: ${name}`);
  }
  await phone(address);
  console.log("ok: fits a phone");
  await dark(address);
  console.log("ok: is dark in the dark");
  await others();
  console.log("ok: shows tables of other programs");
  await elsewhere();
  console.log("ok: reads files where --root says");
  await token(small);
  console.log("ok: asks others for the token");
  const sync = spawn(tool, ["index", "--quiet", large]);
  children.push(sync);
  const ended = new Promise((done) => sync.once("exit", done));
  // A fast machine would be done before the page is there, so most of the time the sync stands still until it was seen.
  const slowly = setInterval(() => {
    sync.kill("SIGSTOP");
    setTimeout(() => sync.kill("SIGCONT"), 70);
  }, 100);
  await new Promise((done) => setTimeout(done, 1500));
  await many(large, ended, () => clearInterval(slowly));
  console.log("ok: shows a running sync, and pages through 1,012 pictures");
} finally {
  await browser.close();
  children.forEach((it) => it.kill("SIGKILL"));
  rmSync(place, { recursive: true, force: true });
}

// Pointing at where a picture came from. Without this script the page shows everything but that.
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const names = Object.keys(data.galleries);
const panel = document.getElementById("panel");
const view = document.getElementById("view");
const chosen = { gallery: names[0], picture: -1, token: -1 };

// Elements: tag, properties, children.
function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

// A part of a sheet of pictures: its class has the sheet, `columns` and `rows` say where the part is.
function sprite(name, number, columns, rows, label) {
  const element = make("span", { className: `sprite ${name}` });
  element.setAttribute("role", "img");
  element.setAttribute("aria-label", label);
  const x = (100 * (number % columns)) / Math.max(1, columns - 1);
  const y = (100 * Math.floor(number / columns)) / Math.max(1, rows - 1);
  element.style.backgroundPosition = `${x}% ${y}%`;
  return element;
}

const galleryPicture = (gallery, i, label) =>
  sprite(`s${names.indexOf(gallery)}`, i, 8, Math.ceil(data.galleries[gallery].pictures.length / 8), label);

function original(number, label) {
  const rows = Math.ceil(data.thumbnails / 32);
  if (number < data.thumbnails) return sprite("s-real", number, 32, rows, label);
  return sprite("", 0, 1, 1, `${label}, without a picture`);
}

// A real image in words: data set, ordinal, class.
function describe(number) {
  const [source, ordinal, label] = data.images[number];
  const set = data.datasets[source];
  const kind = label < 0 ? "" : `, class ${set.classes[label] ?? label}`;
  return `${set.name} #${ordinal}${kind}`;
}

function caption(picture, text) {
  return make("figure", {}, picture, make("figcaption", {}, text));
}

// What the panel says of one token.
function tokenText(gallery, picture, t) {
  const number = picture.sources[t];
  const count = picture.sources.length;
  if (number < 0) return `Token ${t + 1} of ${count} was given.`;
  if (!gallery.drawn) {
    const same = picture.same[t] === "1" ? "the same as in" : "not that of";
    return `Token ${t + 1} of ${count} is the image's own, and ${same} the nearest training image.`;
  }
  const place = picture.positions ? picture.positions[t] : t;
  const step = picture.steps[t];
  const how = step ? `${step} level${step > 1 ? "s" : ""} of the code away from` : "equal to";
  const most = (picture.because ?? [])[t] ?? [];
  const by = most.length ? `: most by token ${most.map((each) => each + 1).join(", then by token ")}` : "";
  const why = step && picture.because ? ` Tokens before it that differ from that image's moved it${by}.` : "";
  return `Token ${t + 1} of ${count} is ${how} token ${place + 1} of ${describe(number)}.${why}`;
}

// Every picture of the page that a training image gave tokens to, most tokens first.
function gave(number) {
  const found = names.filter((name) => data.galleries[name].drawn).flatMap((name) =>
    data.galleries[name].pictures.map((picture, i) => ({ name, i, n: picture.sources.filter((s) => s === number).length })));
  const some = found.filter(({ n }) => n).sort((a, b) => b.n - a.n);
  const links = some.slice(0, 24).map(({ name, i, n }) => {
    const words = `${name}/${i}, ${n} token${n > 1 ? "s" : ""}`;
    return make("a", { href: `#${name}/${i}`, title: words }, galleryPicture(name, i, words));
  });
  return make("div", {},
    make("p", { className: "note" }, `This training image gave tokens to ${some.length} picture${some.length > 1 ? "s" : ""} of this page:`),
    make("div", { className: "gave" }, ...links));
}

function showToken(t) {
  const gallery = data.galleries[chosen.gallery];
  const picture = gallery.pictures[chosen.picture];
  const box = panel.querySelector(".token");
  chosen.token = t;
  panel.querySelectorAll(".tokens button").forEach((button, i) => {
    button.setAttribute("aria-pressed", i === t);
    button.tabIndex = i === Math.max(0, t) ? 0 : -1;
  });
  if (t < 0) {
    box.replaceChildren(make("p", { className: "note" }, "Point at a token or tap it, or move along with the arrow keys."));
    return;
  }
  const number = picture.sources[t];
  const text = make("p", { id: "token" }, tokenText(gallery, picture, t));
  const others = number < 0 || !gallery.drawn ? [] : [gave(number)];
  box.replaceChildren(...(number < 0 ? [] : [original(number, describe(number))]), make("div", {}, text, ...others));
  share();
}

function tokenButtons(picture) {
  const inRun = new Set((picture.runs ?? []).flatMap(([first, n]) => Array.from({ length: n }, (_, i) => first + i)));
  const buttons = [...picture.colours].map((colour, t) => {
    const button = make("button", { type: "button" });
    button.classList.toggle("run", inRun.has(t));
    button.classList.toggle("step", (picture.steps ?? [])[t] > 0);
    button.style.setProperty("--c", `var(--c${parseInt(colour, 16)})`);
    button.setAttribute("aria-label", `token ${t + 1}`);
    button.onmouseenter = button.onfocus = button.onclick = () => showToken(t);
    button.onkeydown = (event) => {
      const by = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 16, ArrowUp: -16 }[event.key];
      if (!by || !buttons[t + by]) return;
      event.preventDefault();
      event.stopPropagation();
      buttons[t + by].focus();
    };
    return button;
  });
  const row = make("div", { className: "tokens" }, ...buttons);
  row.setAttribute("role", "group");
  row.setAttribute("aria-label", "tokens, coloured by the training image that they came from");
  return row;
}

// The longest copied runs in words, the most surprising first.
function runs(picture) {
  return (picture.runs ?? []).slice(0, 3).map(([first, n, bits]) =>
    make("p", { className: "note" },
      `Tokens ${first + 1} to ${first + n} are copied in a row from ${describe(picture.sources[first])}: ` +
      `${bits.toFixed(0)} bits that independent tokens would need.`));
}

function slider(gallery, i) {
  const row = gallery.prefixed.indexOf(i);
  if (row < 0 && gallery.prefixed.length) {
    return [make("p", { className: "note" }, `The first ${gallery.prefixed.length} pictures are decoded from fewer tokens as well.`)];
  }
  if (row < 0) return [];
  const last = gallery.lengths.length - 1;
  const said = make("output", {}, "all tokens");
  const input = make("input", { type: "range", min: 0, max: last, value: last, id: "prefix" });
  input.setAttribute("aria-label", "number of first tokens that are decoded");
  input.oninput = () => {
    const length = gallery.lengths[input.value];
    const label = `the picture from its first ${length} tokens`;
    const name = `p${names.indexOf(chosen.gallery)}`;
    const number = row * gallery.lengths.length + Number(input.value);
    panel.querySelector(".pair .sprite").replaceWith(
      sprite(name, number, gallery.lengths.length, gallery.prefixed.length, label));
    said.textContent = length === gallery.lengths[last] ? "all tokens" : `${length} token${length > 1 ? "s" : ""}`;
  };
  return [make("div", { className: "slider" }, "decoded from", input, said)];
}

// The nearest training image as the codec rebuilds it: a copy looks like it, and need not like its original.
function rebuilt(name, i) {
  const gallery = data.galleries[name];
  if (!gallery.rebuilt) return [];
  const words = "nearest in tokens, rebuilt by the same codec";
  const rows = Math.ceil(gallery.pictures.length / 8);
  return [caption(sprite(`n${names.indexOf(name)}`, i, 8, rows, words), words)];
}

// The real images that a picture is compared with, each once.
function realImages(picture) {
  const roles = new Map();
  const called = { given: "gave the first tokens", nearest: "nearest in tokens", nearest_in_codes: "nearest in codes" };
  for (const [key, role] of Object.entries(called)) {
    const number = picture[key];
    if (number != null) roles.set(number, [...(roles.get(number) ?? []), role]);
  }
  return [...roles].map(([number, said]) => {
    const words = said.join(", ").replace("tokens, nearest in", "tokens and in");
    return caption(original(number, words), `${words}: ${describe(number)}`);
  });
}

// A link to a file beside the page. Where the page was sent without its folder, a click says so and leads nowhere.
function atFullSize(href) {
  const link = make("a", { href }, "The picture at full size");
  link.onclick = (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    const file = new Image();
    file.onload = () => location.assign(href);
    file.onerror = () => link.replaceWith("The picture at full size lies in the folder of the night, which is not beside this page.");
    file.src = href;
  };
  return link;
}

// Fill the panel with one picture of a gallery.
function showPicture(name, i, token = -1) {
  const gallery = data.galleries[name];
  const picture = gallery.pictures[i];
  Object.assign(chosen, { gallery: name, picture: i, token: -1 });
  document.querySelectorAll(".picture[aria-current]").forEach((link) => link.removeAttribute("aria-current"));
  const link = document.getElementById(`${name}/${i}`);
  link.setAttribute("aria-current", "true");
  const count = picture.sources.length;
  const chance = picture.log2_probability == null ? [] :
    [" Its probability is 2", make("sup", {}, String(Math.round(picture.log2_probability)).replace("-", "\u2212")), "."];
  const gap = picture.gap_ratio == null ? [] :
    [` In codes it is ${picture.gap_ratio} times as far from the nearest training image as from the second nearest ` +
     `(gap ratio; below 0.333 it counts as memorized).`];
  const close = make("button", { type: "button", className: "button close", textContent: "Close" });
  close.onclick = () => { panel.hidden = true; link.focus({ preventScroll: true }); };
  const what = gallery.drawn ? `${name}, picture ${i}: ${data.kinds[picture.kind]}` : `held-out image ${i}: ${describe(picture.sources[0])}`;
  const box = make("div", { className: "token" });
  box.setAttribute("aria-live", "polite");
  panel.replaceChildren(
    close,
    make("h3", {}, what),
    make("div", { className: "pair" },
      caption(galleryPicture(name, i, what), gallery.drawn ? "generated" : "decoded from its tokens"),
      ...(gallery.drawn ? [] : [caption(original(picture.sources[0], "the original"), "the original")]),
      ...rebuilt(name, i),
      ...realImages(picture)),
    ...slider(gallery, i),
    tokenButtons(picture),
    box,
    make("p", {}, `${picture.differs} of ${count} tokens differ from the nearest training image; the longest run ` +
      `that stands in one training image has ${picture.longest_run}.`, ...gap, ...chance),
    ...runs(picture),
    make("p", { className: "note" },
      atFullSize(`${link.closest("[data-folder]").dataset.folder}/image_${String(i).padStart(4, "0")}.png`)));
  panel.hidden = false;
  showToken(token);
  share();
}

// The address of what is seen now: picture, token, the sampler beside it, the order.
function share() {
  const { gallery, picture, token } = chosen;
  const place = [document.getElementById("choose").value, ...(picture < 0 ? [] : [picture, token < 0 ? [] : token].flat())];
  if (picture >= 0) place[0] = gallery;
  const state = new URLSearchParams({ choose: document.getElementById("choose").value, beside: document.getElementById("beside").value, order: document.getElementById("order").value });
  document.getElementById("share").href = `#${place.map(encodeURIComponent).join("/")}?${state}`;
}

// Which galleries are seen, and in which order.
function arrange() {
  const galleries = [document.getElementById("choose").value, document.getElementById("beside").value];
  view.classList.toggle("two", galleries[1] !== "" && galleries[1] !== galleries[0]);
  document.querySelectorAll(".gallery").forEach((gallery) => gallery.classList.toggle("shown", galleries.includes(gallery.id)));
  const order = document.getElementById("order").value;
  document.querySelectorAll(".pictures").forEach((list) => {
    const pictures = data.galleries[list.dataset.gallery].pictures;
    const keys = {
      random: (i) => i,
      nearest: (i) => pictures[i].differs,
      farthest: (i) => -pictures[i].differs,
      copied: (i) => -pictures[i].longest_run,
      class: (i) => data.images[pictures[i].nearest][0] * 1e6 + data.images[pictures[i].nearest][2],
    };
    const number = (item) => Number(item.firstElementChild.id.split("/").pop());
    const items = [...list.children].sort((a, b) =>
      keys[order](number(a)) - keys[order](number(b)) || number(a) - number(b));
    list.append(...items);
  });
  share();
}

// #kernel, #kernel/17 and #kernel/17/3: a gallery, one of its pictures, one token of it; ?choose=... what `share` adds.
function follow() {
  const [, place, state] = location.hash.match(/^#?([^?]*)\??(.*)$/);
  for (const [id, value] of new URLSearchParams(state)) {
    const select = document.querySelector(`.controls select[id="${CSS.escape(id)}"]`);
    if (select && [...select.options].some((option) => option.value === value)) select.value = value;
  }
  if (state) arrange();
  const parts = decodeURIComponent(place).split("/");
  const token = parts.length > 2 ? parts.pop() : -1;
  const name = data.galleries[parts.join("/")] ? parts.join("/") : parts.slice(0, -1).join("/");
  if (!data.galleries[name]) return;
  const i = name === parts.join("/") ? -1 : Number(parts[parts.length - 1]);
  const choose = document.getElementById("choose");
  if (choose.value !== name && document.getElementById("beside").value !== name) {
    choose.value = name;
    arrange();
  }
  if (data.galleries[name].pictures[i]) showPicture(name, i, Number(token));
  else view.scrollIntoView();
}

function sortTable(button) {
  const head = button.closest("th");
  const column = [...head.parentElement.children].indexOf(head);
  const descending = head.getAttribute("aria-sort") !== "descending";
  const body = button.closest("table").tBodies[0];
  head.parentElement.querySelectorAll("[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
  head.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const value = (row) => {
    const text = row.children[column].dataset.value;
    return text === "" ? -Infinity : Number(text);
  };
  const rows = [...body.rows].sort((a, b) => (descending ? value(b) - value(a) : value(a) - value(b)));
  body.append(...rows);
}

if (names.length) {
  document.documentElement.classList.add("js");
  document.querySelectorAll(".controls select").forEach((select) => { select.onchange = arrange; });
  document.querySelectorAll(".figures thead button").forEach((button) => { button.onclick = () => sortTable(button); });
  document.querySelectorAll(".pictures").forEach((list) => {
    // Pointing at a cell under a picture shows its token; a click goes to the picture.
    list.onpointermove = (event) => {
      if (!event.target.classList.contains("bar") || event.pointerType === "touch") return;
      const i = Number(event.target.parentElement.id.split("/").pop());
      const box = event.target.getBoundingClientRect();
      const count = data.galleries[list.dataset.gallery].pictures[i].sources.length;
      const t = Math.min(count - 1, Math.floor((count * (event.clientX - box.left)) / box.width));
      if (chosen.gallery !== list.dataset.gallery || chosen.picture !== i) showPicture(list.dataset.gallery, i, t);
      else if (chosen.token !== t) showToken(t);
    };
    list.onkeydown = (event) => {
      const item = event.target.closest("li");
      const columns = getComputedStyle(list).gridTemplateColumns.split(" ").length;
      const by = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns }[event.key];
      const next = item && by && list.children[[...list.children].indexOf(item) + by];
      if (!next) return;
      event.preventDefault();
      next.firstElementChild.focus();
      const [, gallery, i] = next.firstElementChild.id.match(/^(.*)\/(\d+)$/);
      history.replaceState(null, "", `#${gallery}/${i}`);
      showPicture(gallery, Number(i));
    };
  });
  arrange();
  window.onhashchange = follow;
  const wide = matchMedia("(min-width: 1000px)").matches;
  if (location.hash) follow();
  else if (wide) showPicture(names[0], 0);
}

// On paper nothing can be opened.
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => (part.open = true)));

"use strict";
// The page names a project and a file by what the server gave; it never makes a path.
const find = (selector, at = document) => at.querySelector(selector);
const filters = find("#filters"), wall = find("#wall"), more = find("#more"), said = find("#status"), large = find("#large");
const link = new URLSearchParams(location.search); // what a task's link asks for: projects, or dag and run
const states = { stored: "Due for clean-up", deleted: "Deleted at Magic Hour", failed: "Failed" };
let next = null, asked = 0;

// Airflow's own choice of light or dark, where the person made one
const theme = localStorage.getItem("theme");
if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children.filter((child) => child !== null && child !== ""));
  return element;
}

function size(bytes) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  for (; bytes >= 1000 && unit < 4; unit++) bytes /= 1000;
  return `${bytes.toFixed(bytes < 10 && unit ? 1 : 0)} ${units[unit]}`;
}

function count(number, word) {
  return `${number.toLocaleString("en")} ${word}${number === 1 ? "" : "s"}`;
}

function when(iso) {
  const text = new Date(iso).toLocaleString("en", { dateStyle: "medium", timeStyle: "short" });
  return make("time", { dateTime: iso, title: iso, textContent: text });
}

const part = encodeURIComponent;

function source(project, file) {
  return `media/${part(project.root)}/${part(project.id)}/${part(file.key)}?at=${part(project.at)}`;
}

// A store that the browser cannot reach is read through Airflow.
function load(element, url) {
  element.addEventListener("error", () => { element.src = `${url}&stream=true`; }, { once: true });
  element.src = url;
  return element;
}

// What the operators call a project repeats the links below it.
function title(project) {
  const isOwn = project.name.startsWith(`${project.dag}.`) || / (manual|scheduled|backfill|asset_triggered)__/.test(project.name);
  return (!isOwn && project.name) || project.tool || `${project.kind || "project"} ${project.id}`;
}

function show(project, file) {
  const label = `${title(project)}: ${file.name}`;
  if (!file.key) return make("p", { textContent: `${file.name} (${size(file.bytes)}) is not shown` });
  const url = source(project, file);
  if (file.media === "video") return load(make("video", { controls: true, preload: "metadata", ariaLabel: label }), url);
  if (file.media === "audio") return load(make("audio", { controls: true, preload: "metadata", ariaLabel: label }), url);
  const image = load(make("img", { loading: "lazy", decoding: "async", alt: label }), url);
  return make("button", { type: "button", title: "Show large", onclick: () => enlarge(image) }, image);
}

function enlarge(image) {
  Object.assign(find("img", large), { src: image.currentSrc || image.src, alt: image.alt });
  large.showModal();
}

function strip(project, stage) {
  const buttons = project.files.map((file, number) => {
    const isImage = file.key && file.media === "image";
    const inside = isImage
      ? load(make("img", { loading: "lazy", alt: "" }), source(project, file))
      : make("span", { textContent: file.media || "file" });
    const button = make("button", { type: "button", ariaLabel: `Show ${file.name}`, ariaPressed: String(number === 0) }, inside);
    button.onclick = () => {
      stage.replaceChildren(show(project, file));
      buttons.forEach((each) => { each.ariaPressed = String(each === button); });
    };
    return button;
  });
  return make("div", { className: "strip" }, ...buttons);
}

function origin(project) {
  if (!project.dag) return "";
  const dag = `../../dags/${part(project.dag)}`, run = `${dag}/runs/${part(project.run)}`;
  const links = [make("a", { href: dag, textContent: project.dag })];
  if (project.run) links.push(make("a", { href: run, textContent: "Run", title: project.run }));
  if (project.run && project.task) {
    const index = project.map_index >= 0 ? `/mapped/${project.map_index}` : "";
    links.push(make("a", { href: `${run}/tasks/${part(project.task)}${index}`, textContent: `Task ${project.task}` }));
  }
  return make("p", { className: "from" }, ...links);
}

function card(project) {
  const [first] = project.files;
  const nothing = make("p", { textContent: project.error || "No files" });
  const stage = make("div", { className: "stage" }, first ? show(project, first) : nothing);
  const bytes = project.files.reduce((sum, file) => sum + file.bytes, 0);
  const facts = [
    project.tool !== title(project) && project.tool,
    project.credits !== null && count(project.credits, "credit"),
    first && size(bytes),
    project.files.length > 1 && count(project.files.length, "file"),
  ].filter(Boolean).join(" · ");
  return make("li", {}, make("article", { className: project.state },
    stage,
    project.files.length > 1 ? strip(project, stage) : "",
    make("div", { className: "about" },
      make("h2", { textContent: title(project), title: title(project) }),
      project.prompt && make("p", { className: "prompt", textContent: project.prompt, title: project.prompt }),
      make("p", { textContent: facts }),
      make("p", { className: "row" },
        make("span", { className: "badge", textContent: states[project.state] || project.state }), when(project.created)),
      origin(project))));
}

async function get(path) {
  const response = await fetch(path, { headers: { Accept: "application/json" } });
  if (response.status === 401) location.reload(); // leads to the login
  if (!response.ok) throw new Error(`The server responded with ${response.status}. Reload the page to try again.`);
  return response.json();
}

async function fill(before = "") {
  const mine = ++asked;
  if (!before) wall.replaceChildren();
  wall.ariaBusy = "true";
  said.textContent = "Loading…";
  const query = new URLSearchParams(new FormData(filters));
  for (const name of ["projects", "run"]) query.set(name, link.get(name) || "");
  query.set("before", before);
  try {
    const page = await get(`api/projects?${query}`);
    if (mine !== asked) return;
    wall.append(...page.projects.map(card));
    next = page.next;
    more.hidden = !next;
    const shown = count(wall.children.length, "project");
    const rest = page.is_partial ? " so far; there are older ones to look through" : "";
    said.textContent = [wall.children.length || rest ? `${shown}${rest}` : nothingFound(), ...page.problems].join(". ");
  } catch (error) {
    if (mine === asked) said.textContent = error.message;
  } finally {
    if (mine === asked) wall.ariaBusy = "false";
  }
}

function nothingFound() {
  return link.has("projects")
    ? "Nothing is stored of this task's projects yet, or you may not read the DAG that stored it"
    : "Nothing is stored here yet that you may see, or the filters leave nothing";
}

async function sum() {
  const found = await get("api/credits");
  const total = found.rows.reduce((sum, row) => sum + row.credits, 0);
  const which = found.is_partial ? `the newest ${found.projects.toLocaleString("en")}` : "all";
  find("#credits summary").textContent = `${count(total, "credit")} in ${which} ${found.is_partial ? "projects" : count(found.projects, "project")}`;
  find("#credits tbody").replaceChildren(...found.rows.map((row) => make("tr", {},
    make("td", { textContent: row.day }), make("td", { textContent: row.dag }),
    make("td", { textContent: row.projects }), make("td", { textContent: row.credits }))));
  find("#credits").hidden = !found.rows.length;
  const dags = [...new Set(found.rows.map((row) => row.dag))].sort().filter((dag) => dag !== filters.dag.value);
  filters.dag.append(...dags.map((dag) => make("option", { value: dag, textContent: dag })));
}

if (link.get("dag")) filters.dag.append(make("option", { value: link.get("dag"), textContent: link.get("dag"), selected: true }));
if (link.size) {
  const all = make("a", { href: "./", textContent: "Show all media" });
  find("h1").after(all);
}
filters.addEventListener("change", () => fill());
filters.addEventListener("submit", (event) => event.preventDefault());
filters.addEventListener("reset", () => setTimeout(fill));
more.addEventListener("click", () => fill(next));
fill().then(sum).catch(() => {});

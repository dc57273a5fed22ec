"use strict";
// The page names a project and a file by what the server gave; it never makes a path.
const find = (selector, at = document) => at.querySelector(selector);
const filters = find("#filters"), wall = find("#wall"), more = find("#more"), said = find("#status"), large = find("#large");
const link = new URLSearchParams(location.search); // what a task's link asks for: projects, or dag and run
const states = { stored: "Still at Magic Hour", deleted: "Deleted at Magic Hour", failed: "Failed" };
const nothing = link.has("projects")
  ? "Nothing is stored of this task's projects yet, or you may not read the DAG that stored it"
  : "Nothing is stored here yet that you may see, or the filters leave nothing";
let asked = 0;

// Airflow's own choice of light or dark, where the person made one
document.documentElement.dataset.theme = localStorage.getItem("theme");

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children.filter(Boolean));
  return element;
}

function size(bytes) {
  return bytes < 1e6 ? `${Math.ceil(bytes / 1e3)} kB` : `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;
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
  if (!file.key) return make("p", { textContent: `${file.name} (${size(file.bytes)}) is not shown` });
  const label = `${title(project)}: ${file.name}`, url = source(project, file);
  if (file.media !== "image") return load(make(file.media, { controls: true, preload: "metadata", ariaLabel: label }), url);
  const image = load(make("img", { loading: "lazy", alt: label }), url);
  const enlarge = () => {
    Object.assign(find("img", large), { src: image.src, alt: label });
    large.showModal();
  };
  return make("button", { type: "button", title: "Show large", onclick: enlarge }, image);
}

function strip(project, stage) {
  const buttons = project.files.map((file, number) => {
    const inside = file.key && file.media === "image"
      ? load(make("img", { loading: "lazy", alt: "" }), source(project, file))
      : make("span", { textContent: file.media || "file" });
    const choose = () => {
      stage.replaceChildren(show(project, file));
      buttons.forEach((each, other) => { each.ariaPressed = String(other === number); });
    };
    const ariaPressed = String(number === 0);
    return make("button", { type: "button", ariaLabel: `Show ${file.name}`, ariaPressed, onclick: choose }, inside);
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
  const inside = first ? show(project, first) : make("p", { textContent: project.error || "No files" });
  const stage = make("div", { className: "stage" }, inside);
  const bytes = project.files.reduce((sum, file) => sum + file.bytes, 0);
  const facts = [
    project.tool !== title(project) && project.tool,
    project.credits !== null && count(project.credits, "credit"),
    first && size(bytes),
    project.files.length > 1 && count(project.files.length, "file"),
  ].filter(Boolean).join(" · ");
  return make("li", {}, make("article", { className: project.state },
    stage,
    project.files.length > 1 && strip(project, stage),
    make("div", { className: "about" },
      make("h2", { textContent: title(project), title: title(project) }),
      project.prompt && make("p", { className: "prompt", textContent: project.prompt, title: project.prompt }),
      make("p", { className: "facts", textContent: facts }),
      make("p", { className: "row" },
        make("span", { className: "badge", textContent: states[project.state] }), when(project.created)),
      origin(project))));
}

async function get(path) {
  const response = await fetch(path);
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
    more.hidden = !page.next;
    more.onclick = () => fill(page.next);
    const shown = count(wall.children.length, "project");
    const found = page.is_partial ? `${shown} so far; there are older ones to look through` : shown;
    said.textContent = [wall.children.length || page.is_partial ? found : nothing, ...page.problems].join(". ");
  } catch (error) {
    if (mine === asked) said.textContent = error.message;
  } finally {
    if (mine === asked) wall.ariaBusy = "false";
  }
}

async function sum() {
  const { rows, projects, is_partial: isPartial } = await get("api/credits");
  const total = rows.reduce((total, row) => total + row.credits, 0);
  find("#credits summary").textContent = `${count(total, "credit")} in ${isPartial ? "the newest" : "all"} ${count(projects, "project")}`;
  find("#credits tbody").replaceChildren(...rows.map((row) => make("tr", {},
    ...[row.day, row.dag, row.projects, row.credits].map((textContent) => make("td", { textContent })))));
  find("#credits").hidden = !rows.length;
  const dags = new Set(rows.map((row) => row.dag));
  filters.dag.append(...[...dags].filter((dag) => dag !== filters.dag.value).sort().map((dag) => new Option(dag)));
}

if (link.get("dag")) filters.dag.append(new Option(link.get("dag"), link.get("dag"), false, true));
if (link.size) find("h1").after(make("a", { href: "./", textContent: "Show all media" }));
filters.addEventListener("change", () => fill());
filters.addEventListener("reset", () => setTimeout(fill));
fill().then(sum).catch(() => {});

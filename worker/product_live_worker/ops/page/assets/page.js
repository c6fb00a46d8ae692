// Keeps the page true while it is open: sections that have changed come as server-sent events. Without it, reload.
"use strict";
(() => {
  const SILENCE = 6000; // ms without news after which the page says that it is old
  const body = document.body;
  const WORDS = { well: "The worker is well", notice: "The worker is well; something is worth knowing",
    paused: "The worker is paused", stopping: "The worker is stopping", unwell: "The worker is not well" };
  let ahead = body.dataset.now ? Date.parse(body.dataset.now) - Date.now() : 0; // the worker's clock, seen from here

  function span(seconds) {
    for (const [length, unit] of [[86400, "d"], [3600, "h"], [60, "min"]])
      if (seconds >= 1.5 * length) return `${Math.round(seconds / length)} ${unit}`;
    return `${seconds} s`;
  }

  function tick() {
    for (const time of document.querySelectorAll("time[datetime]")) {
      const passed = Math.round((Date.now() + ahead - Date.parse(time.dateTime)) / 1000);
      const text = passed === 0 ? "now" : passed > 0 ? `${span(passed)} ago` : `in ${span(-passed)}`;
      if (time.textContent !== text) time.textContent = text;
    }
  }

  function replace(id, html) {
    const section = document.getElementById(id), focused = document.activeElement, chosen = window.getSelection();
    // What somebody is reading out of it, or typing into it, is left alone.
    if (!section || (chosen && !chosen.isCollapsed && section.contains(chosen.anchorNode))) return;
    const inside = section.contains(focused);
    if (inside && focused.tagName === "INPUT") return;
    const key = inside ? focused.dataset.key : undefined;
    section.innerHTML = html;
    if (key) section.querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus({ preventScroll: true });
  }

  function announce(condition) {
    if (condition === body.dataset.condition) return;
    body.dataset.condition = condition;
    document.getElementById("said").textContent = WORDS[condition];
  }

  document.addEventListener("click", (event) => {
    const asked = event.target.closest("[data-confirm]");
    if (asked && !window.confirm(asked.dataset.confirm)) event.preventDefault();
  });
  setInterval(tick, 1000);
  if (!body.dataset.live || !window.EventSource) return;

  const live = document.getElementById("live");
  const lost = document.getElementById("lost");
  let heard = Date.now(), title = document.title;
  function alive() {
    const silent = Date.now() - heard, old = silent > SILENCE;
    body.classList.toggle("stale", old);
    live.className = old ? "lost" : "on";
    live.textContent = old ? `no news for ${span(Math.round(silent / 1000))}` : "live";
    // What it last said is not what is: this stands above it, and in the window's title.
    document.title = old ? "No news · product-live-worker" : title;
    if (lost.hidden === old) lost.hidden = !old;
  }
  const source = new EventSource(body.dataset.live);
  source.onmessage = (event) => {
    const news = JSON.parse(event.data);
    heard = Date.now();
    ahead = Date.parse(news.now) - heard;
    for (const [id, html] of Object.entries(news.sections)) replace(id, html);
    title = news.title;
    announce(news.condition);
    tick();
    alive();
  };
  const watch = setInterval(alive, 1000);
  // Refused for good: more pages are open than are kept up to date. That says nothing of the worker.
  source.onerror = () => {
    if (source.readyState !== EventSource.CLOSED) return;
    clearInterval(watch);
    body.classList.remove("stale");
    lost.hidden = true;
    document.title = title;
    live.className = "still";
    live.textContent = "reload to see changes";
  };
})();

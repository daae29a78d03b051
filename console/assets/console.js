// Pages that update by themselves. What the console has seen replaces what the page shows, node by node, so that focus, scrolling and
// selection stay. Without this file pages are as they were loaded.
"use strict";

(() => {
  const live = document.getElementById("live");
  const age = document.getElementById("age");
  if (!live || !age) return;
  let stream = null;
  let lookedAt = null;

  const isMarkup = (node) => node.nodeType === Node.ELEMENT_NODE;

  const update = (from, to) => {
    if (isMarkup(from)) {
      for (const { name, value } of to.attributes) {
        if (from.getAttribute(name) !== value) from.setAttribute(name, value);
      }
      for (const { name } of [...from.attributes]) {
        // What the reader has opened stays open.
        if (name !== "open" && !to.hasAttribute(name)) from.removeAttribute(name);
      }
      updateChildren(from, to);
    } else if (from.data !== to.data) {
      from.data = to.data;
    }
  };

  const keyOf = (node) => (isMarkup(node) ? node.id || node.ariaLabel || "" : "");

  // What has a name is found again wherever it is now, so that something new above it does not replace it.
  const sameAs = (node, old) => {
    const isSame = (other) => other.nodeName === node.nodeName && keyOf(other) === keyOf(node);
    while (keyOf(node) && old && !isSame(old)) old = old.nextSibling;
    return old && isSame(old) ? old : null;
  };

  const updateChildren = (from, to) => {
    let old = from.firstChild;
    const removeUntil = (end) => {
      while (old !== end) {
        const next = old.nextSibling;
        old.remove();
        old = next;
      }
    };
    for (const node of [...to.childNodes]) {
      const same = sameAs(node, old);
      if (same) {
        removeUntil(same);
        old = same.nextSibling;
        update(same, node);
      } else {
        from.insertBefore(node, old);
      }
    }
    removeUntil(null);
  };

  const say = () => {
    if (stream === null || stream.readyState === EventSource.CLOSED) {
      age.textContent = "It does not update by itself any more: load the page again.";
    } else if (lookedAt !== null) {
      const seconds = Math.max(0, Math.round((performance.now() - lookedAt) / 1000));
      const connection = stream.readyState === EventSource.OPEN ? "" : ", and the console does not answer";
      age.textContent = `Updates by itself. Looked ${seconds} s ago${connection}.`;
    }
  };

  const begin = () => {
    stream = new EventSource(age.dataset.stream);
    stream.onmessage = (event) => {
      const { html, age_ms } = JSON.parse(event.data);
      lookedAt = performance.now() - age_ms;
      // Parsed apart from the page: nothing in it is run.
      if (html !== null) updateChildren(live, new DOMParser().parseFromString(html, "text/html").body);
      say();
    };
    stream.onerror = say;
  };

  // A page that nobody sees costs nothing, and holds none of the few connections of a browser.
  const follow = () => {
    if (document.hidden) {
      stream?.close();
    } else if (stream === null || stream.readyState === EventSource.CLOSED) {
      begin();
    }
  };
  document.addEventListener("visibilitychange", follow);
  addEventListener("pagehide", () => stream?.close());
  addEventListener("pageshow", follow);
  setInterval(() => document.hidden || say(), 1000);
  follow();
})();

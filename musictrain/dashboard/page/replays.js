// Under the samples: steps that were done again with `musictrain replay`, each a page of its own beside this one.
"use strict";

(function (M) {
  let text = "";

  M.showReplays = function (data) {
    const replays = data.replays || [];
    if (JSON.stringify(replays) === text) return;
    text = JSON.stringify(replays);
    const host = M.byId("replays");
    host.hidden = !replays.length;
    const links = replays.flatMap(([folder, step, attempt], place) => {
      const name = `step ${M.count(step)}${attempt ? ` of attempt ${M.count(attempt)}` : ""}`;
      const where = { href: `replay/${encodeURIComponent(folder)}/index.html`, text: name, title: "What was in its batch, to hear and to see" };
      return [place ? ", " : "", M.element("a", where)];
    });
    host.replaceChildren("Done again with musictrain replay: ", ...links, ".");
  };
})(window.musictrain);

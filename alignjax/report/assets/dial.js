"use strict";
// The dials: each moves through the rows of the table below it, which says it all without this script.
document.querySelectorAll(".dial").forEach((section) => {
  const slider = section.querySelector("input");
  const rows = [...section.querySelectorAll("tbody tr")];
  const dots = [...section.querySelectorAll(".dial-sketch i")];
  const heads = [...section.querySelectorAll("thead th")].map((head) => head.textContent);
  const values = section.querySelector("dl");
  const command = section.querySelector(".dial-command");
  const [code, copy] = [command.querySelector("code"), command.querySelector("button")];

  const show = () => {
    const at = Number(slider.value);
    const cells = [...rows[at].children].map((cell) => cell.textContent.trim());
    rows.forEach((row, i) => row.classList.toggle("at", i === at));
    dots.forEach((dot, i) => dot.classList.toggle("at", i === at));
    values.replaceChildren(...heads.slice(0, -1).flatMap((head, j) => {
      const [name, value] = [document.createElement("dt"), document.createElement("dd")];
      name.textContent = head;
      value.textContent = cells[j] + (j === 0 && at === Number(section.dataset.own) ? ", as in this run" : "");
      return [name, value];
    }));
    slider.setAttribute("aria-valuetext", cells[0]);
    code.textContent = cells[cells.length - 1];
    copy.textContent = "copy";
    command.hidden = code.textContent === "-";
  };

  copy.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(code.textContent);
      copy.textContent = "copied";
    } catch {
      // A page opened from a file may not write to the clipboard everywhere: the text is selected instead.
      getSelection().selectAllChildren(code);
      copy.textContent = "selected";
    }
  });
  slider.addEventListener("input", show);
  section.querySelector("[data-script]").hidden = false;
  show();
});

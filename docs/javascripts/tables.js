// Tables that are wider than the page scroll inside their own box: by keyboard as well.
const reachTables = () => {
  for (const box of document.querySelectorAll(".md-typeset__scrollwrap")) {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
    else box.removeAttribute("tabindex");
  }
};
addEventListener("load", reachTables);
addEventListener("resize", reachTables);

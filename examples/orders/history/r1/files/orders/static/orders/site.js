// The board looks for news every ten seconds while it is visible.
if (location.pathname === "/orders/") {
  setInterval(async () => {
    if (document.hidden) return;
    const answer = await fetch(location.href);
    if (!answer.ok) return;
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    document.querySelector("tbody").replaceWith(page.querySelector("tbody"));
  }, 10000);
}

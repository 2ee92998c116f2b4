/** Asks for a token when the server wants one. */

import { setToken, token } from "./api.js";
import { fill, h } from "./dom.js";
import { show } from "./router.js";

/** Open the dialog whenever a call is refused for want of a token. */
export function wireLogin() {
  window.addEventListener("kinodex-login", (event) => {
    if (!document.querySelector("#login")) ask(/** @type {CustomEvent} */ (event).detail);
  });
}

/** @param {{reason: string, message: string}} error */
function ask(error) {
  const had = Boolean(token());
  const input = h("input", { type: "password", name: "token", autocomplete: "off", required: true, "aria-label": "Token", placeholder: "kdx_…" });
  const dialog = h("dialog", { id: "login", "aria-label": "Sign in", onclose: () => dialog.remove() });
  fill(dialog, h("h2", {}, "Sign in"),
    h("p", {}, had ? `The server no longer takes this tab's token: ${error.message}` : "This server asks for a token."),
    h("p", { class: "label" }, "Its operator makes one with ", h("code", {}, "kinodex token create"), ". This tab keeps it until it closes."),
    h("form", {
      onsubmit: (/** @type {SubmitEvent} */ submit) => {
        submit.preventDefault();
        setToken(input.value.trim());
        dialog.close();
        show();
      },
    }, input, h("div", { class: "buttons" }, h("button", { class: "first", type: "submit" }, "Sign in"))));
  document.body.append(dialog);
  dialog.showModal();
}

/** Forget the token, and show the page as a stranger. */
export function signOut() {
  setToken("");
  show();
}

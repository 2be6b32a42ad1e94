/* Search in a site that was opened from a folder. The theme searches in a worker, and browsers start
   none for a page whose address begins with file://. A hidden frame takes its place: the script runs
   there, and the two functions that a worker's script calls, postMessage and importScripts, are
   given to it. Elsewhere nothing is changed. */
"use strict";

(() => {
  if (location.protocol !== "file:") return;

  function run(scope, address) {
    return new Promise((done, failed) => {
      const script = scope.document.createElement("script");
      script.src = new URL(address, location.href).href;
      script.onload = done;
      script.onerror = () => failed(new Error(`${script.src} could not be loaded`));
      scope.document.head.append(script);
    });
  }

  window.Worker = class FrameWorker extends EventTarget {
    constructor(address) {
      super();
      this.onmessage = null;
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.body.append(this.frame);
      const scope = this.frame.contentWindow;
      scope.document.open();
      scope.document.write("<!doctype html><head></head>");
      scope.document.close();
      scope.postMessage = (data) => {
        const event = new MessageEvent("message", { data });
        this.dispatchEvent(event);
        if (this.onmessage) this.onmessage(event);
      };
      scope.importScripts = (...addresses) =>
        addresses.reduce((before, next) => before.then(() => run(scope, next)), Promise.resolve());
      this.scope = scope;
      this.ready = run(scope, address);
    }

    postMessage(data) {
      const { scope } = this;
      this.ready.then(() => scope.dispatchEvent(new scope.MessageEvent("message", { data })));
    }

    terminate() {
      this.frame.remove();
    }
  };
})();

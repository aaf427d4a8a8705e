const events = new EventSource("events");
events.addEventListener("log", (event) => {
  document.getElementById("log").textContent = JSON.parse(event.data).join("\n");
});

// Light or dark: as the system says, until the switch is used.

export function offerThemes(button) {
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const tell = () => (button.textContent = isDark() ? "Light mode" : "Dark mode");
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    tell();
    localStorage.setItem("theme", root.dataset.theme);
  });
  system.addEventListener("change", tell);
  tell();
}

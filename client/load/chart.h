// Plots as SVG, for a page that loads nothing.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace tessera::load {

struct Series {
  std::string name;
  std::vector<std::pair<double, double>> points;  // by ascending x where they are joined
  bool dashed = false;
  int color = 0;  // index into the palette; series that belong together share it
};

struct Axis {
  std::string title;
  bool logarithmic = false;  // values must be > 0 then
  // Places with a label; none: chosen by the values.
  std::vector<std::pair<double, std::string>> ticks;
};

// Lines with a dot at each point where there are few, a legend below, and the values in tooltips. Empty
// series are left out; a chart without points says so.
std::string LineChart(const std::string& title, const Axis& x, const Axis& y,
                      const std::vector<Series>& series);

struct BarPart {
  std::string name;
  double value;
};
struct Bar {
  std::string name;
  std::vector<BarPart> parts;  // the same names in each bar
};
// Horizontal bars of stacked parts.
std::string StackedBars(const std::string& title, const std::string& unit, const std::vector<Bar>& bars);

// `text` with what HTML would take for markup replaced.
std::string EscapeHtml(const std::string& text);

}  // namespace tessera::load

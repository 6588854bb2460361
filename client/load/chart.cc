#include "client/load/chart.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"

namespace tessera::load {
namespace {

constexpr double kWidth = 720, kHeight = 360;
constexpr double kLeft = 70, kRight = 32, kTop = 36, kBottom = 50;
constexpr double kLegendLine = 20, kLegendColumn = 340;
constexpr size_t kMaxDots = 60;  // of a series; more would be a smear

// Told apart by most colour-blind readers too (Okabe and Ito).
constexpr const char* kPalette[] = {"#0072b2", "#d55e00", "#009e73", "#cc79a7",
                                    "#e69f00", "#56b4e9", "#7f7f7f"};

const char* Color(int index) { return kPalette[static_cast<size_t>(index) % std::size(kPalette)]; }

std::string Label(double value) { return absl::StrFormat(value < 1e4 ? "%.4g" : "%.0f", value); }

// Maps values to a stretch of pixels.
class Scale {
 public:
  Scale(const Axis& axis, double low, double high, double from, double to)
      : logarithmic_(axis.logarithmic), from_(from), to_(to), ticks_(axis.ticks) {
    if (logarithmic_) {
      low_ = std::log10(low);
      high_ = std::log10(high);
    } else {
      low_ = std::min(low, 0.0);
      high_ = high;
    }
    if (high_ - low_ < 1e-9) high_ = low_ + 1;
    if (ticks_.empty()) ChooseTicks();
  }

  double At(double value) const {
    const double place = logarithmic_ ? std::log10(value) : value;
    return from_ + (place - low_) / (high_ - low_) * (to_ - from_);
  }
  const std::vector<std::pair<double, std::string>>& ticks() const { return ticks_; }

 private:
  void ChooseTicks() {
    if (logarithmic_) {
      // Whole decades at both ends, and steps within where there are few.
      low_ = std::floor(low_ + 1e-9);
      high_ = std::max(std::ceil(high_ - 1e-9), low_ + 1);
      const bool few = high_ - low_ <= 2;
      for (double decade = low_; decade <= high_; ++decade) {
        for (double step : {1.0, 2.0, 5.0}) {
          const double value = step * std::pow(10, decade);
          if ((step == 1 || few) && std::log10(value) <= high_ + 1e-9)
            ticks_.emplace_back(value, Label(value));
        }
      }
      return;
    }
    const double raw = (high_ - low_) / 5;
    const double power = std::pow(10, std::floor(std::log10(raw)));
    const double step = power * (raw / power > 5 ? 10 : raw / power > 2 ? 5 : raw / power > 1 ? 2 : 1);
    high_ = std::ceil(high_ / step - 1e-9) * step;
    for (double value = low_; value <= high_ + step / 2; value += step)
      ticks_.emplace_back(value, Label(value));
  }

  const bool logarithmic_;
  double low_, high_, from_, to_;
  std::vector<std::pair<double, std::string>> ticks_;
};

std::string Text(double x, double y, const char* anchor, const std::string& text, const char* extra = "") {
  return absl::StrFormat("<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\"%s>%s</text>\n", x, y, anchor, extra,
                         EscapeHtml(text));
}

std::string Open(double height, const std::string& title) {
  return absl::StrCat(absl::StrFormat("<svg viewBox=\"0 0 %.0f %.0f\" role=\"img\" aria-label=\"%s\">\n",
                                      kWidth, height, EscapeHtml(title)),
                      Text(kLeft, 18, "start", title, " class=\"title\""));
}

std::string Grid(const Scale& x, const Scale& y, const Axis& x_axis, const Axis& y_axis) {
  std::string svg;
  const double bottom = kHeight - kBottom, right = kWidth - kRight;
  for (const auto& [value, label] : x.ticks()) {
    absl::StrAppendFormat(&svg, "<line class=\"grid\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\"/>\n",
                          x.At(value), x.At(value), kTop, bottom);
    svg += Text(x.At(value), bottom + 16, "middle", label);
  }
  for (const auto& [value, label] : y.ticks()) {
    absl::StrAppendFormat(&svg, "<line class=\"grid\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\"/>\n",
                          kLeft, right, y.At(value), y.At(value));
    svg += Text(kLeft - 6, y.At(value) + 4, "end", label);
  }
  svg += Text((kLeft + right) / 2, bottom + 36, "middle", x_axis.title);
  absl::StrAppendFormat(
      &svg, "<text transform=\"translate(16 %.1f) rotate(-90)\" text-anchor=\"middle\">%s</text>\n",
      (kTop + bottom) / 2, EscapeHtml(y_axis.title));
  return svg;
}

std::string Line(const Series& series, const Scale& x, const Scale& y) {
  std::string path, dots;
  for (const auto& [px, py] : series.points) {
    absl::StrAppendFormat(&path, "%s%.1f %.1f", path.empty() ? "M" : "L", x.At(px), y.At(py));
    if (series.points.size() > kMaxDots) continue;
    absl::StrAppendFormat(
        &dots, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3\" fill=\"%s\"><title>%s: %s, %s</title></circle>\n",
        x.At(px), y.At(py), Color(series.color), EscapeHtml(series.name), Label(px), Label(py));
  }
  return absl::StrFormat("<path d=\"%s\" fill=\"none\" stroke=\"%s\" stroke-width=\"2\"%s/>\n%s", path,
                         Color(series.color), series.dashed ? " stroke-dasharray=\"6 4\"" : "", dots);
}

double LegendHeight(size_t entries) { return kLegendLine * static_cast<double>((entries + 1) / 2) + 8; }

std::string LegendEntry(size_t index, double top, int color, bool dashed, const std::string& name) {
  const double x = kLeft + kLegendColumn * static_cast<double>(index % 2);
  const double y = top + kLegendLine * static_cast<double>(index / 2);
  return absl::StrCat(
      absl::StrFormat(
          "<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"%s\" stroke-width=\"3\"%s/>\n", x,
          x + 24, y, y, Color(color), dashed ? " stroke-dasharray=\"6 4\"" : ""),
      Text(x + 32, y + 4, "start", name));
}

}  // namespace

std::string EscapeHtml(const std::string& text) {
  return absl::StrReplaceAll(text, {{"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}, {"\"", "&quot;"}});
}

std::string LineChart(const std::string& title, const Axis& x_axis, const Axis& y_axis,
                      const std::vector<Series>& all) {
  std::vector<const Series*> series;
  for (const Series& one : all) {
    if (!one.points.empty()) series.push_back(&one);
  }
  if (series.empty())
    return absl::StrCat(Open(kHeight, title), Text(kLeft, 60, "start", "nothing to show"), "</svg>\n");
  double low_x = HUGE_VAL, high_x = -HUGE_VAL, low_y = HUGE_VAL, high_y = -HUGE_VAL;
  for (const Series* one : series) {
    for (const auto& [px, py] : one->points) {
      low_x = std::min(low_x, px);
      high_x = std::max(high_x, px);
      low_y = std::min(low_y, py);
      high_y = std::max(high_y, py);
    }
  }
  const Scale x(x_axis, low_x, high_x, kLeft, kWidth - kRight);
  const Scale y(y_axis, low_y, high_y, kHeight - kBottom, kTop);
  std::string svg = Open(kHeight + LegendHeight(series.size()), title) + Grid(x, y, x_axis, y_axis);
  for (const Series* one : series) svg += Line(*one, x, y);
  for (size_t i = 0; i < series.size(); ++i) {
    svg += LegendEntry(i, kHeight + 10, series[i]->color, series[i]->dashed, series[i]->name);
  }
  return svg + "</svg>\n";
}

std::string StackedBars(const std::string& title, const std::string& unit, const std::vector<Bar>& bars) {
  constexpr double kBarHeight = 18, kBarStep = 44;
  double longest = 0;
  for (const Bar& bar : bars) {
    double sum = 0;
    for (const BarPart& part : bar.parts) sum += part.value;
    longest = std::max(longest, sum);
  }
  if (longest <= 0)
    return absl::StrCat(Open(80, title), Text(kLeft, 60, "start", "nothing to show"), "</svg>\n");
  const size_t names = bars.front().parts.size();
  const double bottom = kTop + kBarStep * static_cast<double>(bars.size());
  std::string svg = Open(bottom + LegendHeight(names) + 10, title);
  for (size_t i = 0; i < bars.size(); ++i) {
    const double y = kTop + kBarStep * static_cast<double>(i);
    double x = kLeft, sum = 0;
    for (size_t p = 0; p < bars[i].parts.size(); ++p) {
      const BarPart& part = bars[i].parts[p];
      const double width = part.value / longest * (kWidth - kLeft - kRight);
      sum += part.value;
      absl::StrAppendFormat(&svg,
                            "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.0f\" "
                            "fill=\"%s\"><title>%s: %s %s</title></rect>\n",
                            x, y + 14, width, kBarHeight, Color(static_cast<int>(p)), EscapeHtml(part.name),
                            Label(part.value), unit);
      x += width;
    }
    svg += Text(kLeft, y + 10, "start", absl::StrCat(bars[i].name, ": ", Label(sum), " ", unit));
  }
  for (size_t p = 0; p < names; ++p) {
    svg += LegendEntry(p, bottom + 14, static_cast<int>(p), false, bars.front().parts[p].name);
  }
  return svg + "</svg>\n";
}

}  // namespace tessera::load

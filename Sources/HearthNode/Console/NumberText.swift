/// A number with `places` decimals; "nan" and infinities by name.
package func decimal(_ value: Double, _ places: Int) -> String {
  guard value.isFinite else { return value.isNaN ? "nan" : value < 0 ? "-inf" : "inf" }
  let scale = (0..<places).reduce(1.0) { scale, _ in scale * 10 }
  let scaled = (value.magnitude * scale).rounded()
  guard scaled < 0x1p53 else { return "\(value)" }
  let whole = Int(scaled / scale)
  let sign = value < 0 && scaled > 0 ? "-" : ""
  guard places > 0 else { return "\(sign)\(whole)" }
  let rest = String(Int(scaled) - whole * Int(scale))
  return "\(sign)\(whole)." + String(repeating: "0", count: places - rest.count) + rest
}

/// A duration as "0.52 s", "12.3 s", "4:05" (minutes) or "1:02:03" (hours).
package func duration(_ seconds: Double) -> String {
  guard seconds.isFinite, seconds >= 0, seconds < 1e9 else { return "?" }
  if seconds < 10 { return decimal(seconds, 2) + " s" }
  if seconds < 59.95 { return decimal(seconds, 1) + " s" }
  let total = Int(seconds.rounded())
  let two = { (value: Int) in value < 10 ? "0\(value)" : "\(value)" }
  let (hours, minutes) = (total / 3600, total / 60 % 60)
  return hours > 0 ? "\(hours):\(two(minutes)):\(two(total % 60))" : "\(minutes):\(two(total % 60))"
}

/// An integer with commas between groups of three digits.
package func grouped(_ value: Int) -> String {
  let digits = String(value.magnitude)
  var text = ""
  for (index, digit) in digits.enumerated() {
    if index > 0 && (digits.count - index) % 3 == 0 { text.append(",") }
    text.append(digit)
  }
  return value < 0 ? "-" + text : text
}

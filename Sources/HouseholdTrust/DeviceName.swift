/// Whether a text may name a device: 1 to 40 bytes of UTF-8 that show as one plain line of text.
///
/// Names are chosen by other devices and shown on terminals, so control characters, line breaks, marks that turn
/// the direction of text and characters without a width are refused, as are blanks at either end.
package func isValidDeviceName(_ name: String) -> Bool {
  guard (1...TrustLimits.nameBytes).contains(name.utf8.count) else { return false }
  guard name.first?.isWhitespace == false, name.last?.isWhitespace == false else { return false }
  return name.unicodeScalars.allSatisfy { scalar in
    switch scalar.properties.generalCategory {
    case .control, .format, .surrogate, .privateUse, .unassigned, .lineSeparator, .paragraphSeparator: false
    default: true
    }
  }
}

/// A valid name made from any text, for instance a host name; `device` when nothing of it is left.
package func deviceName(from text: String) -> String {
  var name = ""
  for character in text where isValidDeviceName("a\(character)b") {
    guard (name + String(character)).utf8.count <= TrustLimits.nameBytes else { break }
    name.append(character)
  }
  while name.last?.isWhitespace == true { name.removeLast() }
  let trimmed = String(name.drop(while: \.isWhitespace))
  return isValidDeviceName(trimmed) ? trimmed : "device"
}

/// A diagnosis with what follows from it: the one line of `hearth doctor --json`.
package struct DoctorReport: Sendable, Encodable {
  private let diagnosis: Diagnosis

  private enum Keys: String, CodingKey { case findings, canWork }

  /// The report of a diagnosis.
  package init(_ diagnosis: Diagnosis) { self.diagnosis = diagnosis }

  /// The measurements, "findings" and "can_work" as one object.
  package func encode(to encoder: any Encoder) throws {
    try diagnosis.encode(to: encoder)
    var keys = encoder.container(keyedBy: Keys.self)
    try keys.encode(diagnosis.findings, forKey: .findings)
    try keys.encode(diagnosis.canWork, forKey: .canWork)
  }
}

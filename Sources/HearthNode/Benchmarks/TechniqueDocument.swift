import FoundationEssentials
import HearthStorage
import LanguageModels

/// Names for the command line.
package enum TechniqueChoices {
  /// Models that can be measured: those that write text.
  package static let models = ModelShape.allCases.filter { $0 != .miniLM }.map(\.rawValue)
  /// Techniques.
  package static let techniques = MeasuredTechnique.allCases.map(\.rawValue)
}

extension TechniqueBenchmarkRequest {
  /// Takes the models of these names; others are left out.
  package mutating func chooseModels(_ names: [String], withDropout: [String]) {
    shapes = names.compactMap(ModelShape.init(rawValue:))
    dropoutShapes = withDropout.compactMap(ModelShape.init(rawValue:))
  }

  /// Takes the techniques of these names; others are left out.
  package mutating func chooseTechniques(_ names: [String]) {
    techniques = names.compactMap(MeasuredTechnique.init(rawValue:))
  }
}

extension TechniqueCase {
  /// Reads what the benchmark hands to its worker.
  package init(json: String) throws {
    let decoder = JSONDecoder()
    decoder.keyDecodingStrategy = .convertFromSnakeCase
    guard let measured = try? decoder.decode(TechniqueCase.self, from: Data(json.utf8)) else {
      throw RunFailure.badInput(
        role: "case", path: json,
        detail: "it is no case of 'hearth bench techniques', which starts this itself")
    }
    self = measured
  }
}

/// Files that the benchmark writes.
package enum TechniqueDocument {
  private static let begin = "<!-- techniques: begin -->"
  private static let end = "<!-- techniques: end -->"

  /// Writes a text file.
  package static func write(_ text: String, to path: String) throws {
    try AtomicFile.write(Array(text.utf8), to: path)
  }

  /// Replaces what stands between the marks of a Markdown file.
  package static func replaceTables(in path: String, by table: String) throws {
    guard let data = try? Data(contentsOf: URL(filePath: path)) else {
      throw RunFailure.missingInput(role: "document", path: path, detail: "it cannot be read")
    }
    let text = String(decoding: data, as: UTF8.self)
    guard let first = text.firstRange(of: begin), let last = text.firstRange(of: end),
      first.upperBound <= last.lowerBound
    else {
      throw RunFailure.badInput(
        role: "document", path: path, detail: "it needs the lines '\(begin)' and '\(end)', in this order")
    }
    try write(text[..<first.upperBound] + "\n" + table + text[last.lowerBound...], to: path)
  }
}

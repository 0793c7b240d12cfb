/// What each target may depend on, and which foreign modules it may import.
///
/// The whole house in one table: Package.swift must agree with it, and so must every import.
struct HouseLayers: Sendable {
  struct Target: Sendable {
    /// Our own targets.
    var dependencies: Set<String>
    /// Modules of the toolchain and of packages.
    var foreign: Set<String> = []
  }

  let targets: [String: Target]
  /// Targets that know nothing of networks and may not meet those that do.
  let learningWing: Set<String>
  let meshWing: Set<String>

  /// The layers of Hearth.
  static let hearth = HouseLayers(
    targets: [
      "CSentencePiece": Target(dependencies: ["CSentencePieceLibrary"]),
      "CKernels": Target(dependencies: []),
      "Determinism": Target(dependencies: []),
      "CryptoPrimitives": Target(dependencies: ["CSodium", "COpenSSL"]),
      "WireCoding": Target(dependencies: []),
      "MeshModel": Target(dependencies: ["WireCoding"]),
      "MeshProtocol": Target(dependencies: ["MeshModel", "WireCoding"]),
      "HouseholdTrust": Target(
        dependencies: ["MeshModel", "WireCoding", "CryptoPrimitives", "Determinism"]),
      "SecureChannel": Target(
        dependencies: [
          "HouseholdTrust", "MeshProtocol", "MeshModel", "WireCoding", "CryptoPrimitives", "Determinism",
        ]),
      "GossipMembership": Target(dependencies: ["MeshModel", "WireCoding", "Determinism"]),
      "PeerDiscovery": Target(dependencies: ["MeshModel", "WireCoding", "CryptoPrimitives", "Determinism"]),
      "MeshPeer": Target(
        dependencies: [
          "GossipMembership", "PeerDiscovery", "HouseholdTrust", "MeshProtocol", "MeshModel", "WireCoding",
          "CryptoPrimitives", "Determinism",
        ]),
      "TensorKernels": Target(dependencies: ["COpenBLAS", "CKernels"]),
      "NeuralNetworks": Target(dependencies: ["TensorKernels", "Determinism"]),
      "LanguageModels": Target(
        dependencies: [
          "NeuralNetworks", "TensorKernels", "CSentencePiece", "CryptoPrimitives", "Determinism",
        ],
        foreign: ["FoundationEssentials"]),
      "ActivationCache": Target(
        dependencies: ["TensorKernels", "CryptoPrimitives"], foreign: ["FoundationEssentials"]),
      "FineTuning": Target(
        dependencies: [
          "LanguageModels", "NeuralNetworks", "TensorKernels", "ActivationCache", "CryptoPrimitives",
          "Determinism",
        ],
        foreign: ["FoundationEssentials"]),
      "PipelineSchedules": Target(dependencies: []),
      "ParallelPlanner": Target(dependencies: ["PipelineSchedules", "CryptoPrimitives"]),
      "Collectives": Target(dependencies: []),
      "TrainingCoordination": Target(
        dependencies: [
          "ParallelPlanner", "PipelineSchedules", "HouseholdTrust", "MeshModel", "WireCoding",
          "CryptoPrimitives", "Determinism",
        ]),
      "DistributedTraining": Target(
        dependencies: [
          "FineTuning", "LanguageModels", "NeuralNetworks", "TensorKernels", "ActivationCache",
          "ComputeRuntime", "Collectives", "ParallelPlanner", "PipelineSchedules", "CryptoPrimitives",
          "Determinism",
        ]),
      "HearthStorage": Target(
        dependencies: [
          "ActivationCache", "LanguageModels", "HouseholdTrust", "MeshModel", "WireCoding",
          "CryptoPrimitives",
        ],
        foreign: ["Glibc", "FoundationEssentials"]),
      "MeshTransport": Target(
        dependencies: [
          "SecureChannel", "HouseholdTrust", "MeshProtocol", "MeshModel", "WireCoding", "CryptoPrimitives",
          "Determinism",
        ],
        foreign: ["NIOCore", "NIOPosix", "Glibc"]),
      "AvahiDiscovery": Target(dependencies: ["CAvahi", "PeerDiscovery", "MeshModel"], foreign: ["Glibc"]),
      "MeshSimulator": Target(
        dependencies: [
          "MeshPeer", "SecureChannel", "GossipMembership", "PeerDiscovery", "HouseholdTrust", "MeshProtocol",
          "MeshModel", "WireCoding", "CryptoPrimitives", "Determinism", "TrainingCoordination", "Collectives",
          "ParallelPlanner", "PipelineSchedules",
        ]),
      "ComputeRuntime": Target(dependencies: ["TensorKernels"], foreign: ["Glibc"]),
      "HearthNode": Target(
        dependencies: [
          "FineTuning", "LanguageModels", "NeuralNetworks", "TensorKernels", "ActivationCache",
          "CryptoPrimitives", "Determinism", "HearthStorage", "ComputeRuntime", "MeshPeer", "MeshTransport",
          "AvahiDiscovery", "SecureChannel", "GossipMembership", "PeerDiscovery", "HouseholdTrust",
          "MeshProtocol", "MeshModel", "WireCoding", "ParallelPlanner", "PipelineSchedules", "Collectives",
          "TrainingCoordination", "DistributedTraining",
        ],
        foreign: ["Glibc", "FoundationEssentials", "Foundation", "Logging"]),
      "hearth": Target(
        dependencies: ["HearthNode", "MeshSimulator"],
        foreign: ["ArgumentParser", "Glibc", "FoundationEssentials", "Foundation"]),
      "hearth-benchmark": Target(
        dependencies: [
          "HearthNode", "FineTuning", "LanguageModels", "NeuralNetworks", "TensorKernels", "ActivationCache",
          "HearthStorage", "ComputeRuntime", "CryptoPrimitives", "Determinism", "MeshTransport",
          "SecureChannel", "HouseholdTrust", "MeshProtocol", "MeshModel", "ParallelPlanner",
          "Collectives", "DistributedTraining", "TrainingCoordination",
        ],
        foreign: ["ArgumentParser", "Glibc", "FoundationEssentials", "Foundation"]),
    ],
    learningWing: ["TensorKernels", "NeuralNetworks", "LanguageModels", "ActivationCache", "FineTuning"],
    meshWing: [
      "WireCoding", "MeshModel", "MeshProtocol", "HouseholdTrust", "SecureChannel", "GossipMembership",
      "PeerDiscovery", "MeshPeer",
    ])

  /// Modules that come with the toolchain and need no declaration.
  static let toolchain: Set<String> = ["Glibc", "FoundationEssentials", "Foundation"]
  /// Part of the language, without effects: atomics, locks and concurrency.
  static let language: Set<String> = ["Swift", "Synchronization"]
  /// What tests may import beside the dependencies that Package.swift gives them.
  static let testing: Set<String> = ["Testing", "Foundation", "FoundationEssentials", "Glibc"]
}

/// The C libraries, the only targets that may include their headers, and the only Swift target behind each.
let foreignLibraries: [(module: String, header: String, folders: [String], importer: String)] = [
  ("COpenBLAS", "cblas", ["COpenBLAS"], "TensorKernels"),
  ("COpenBLAS", "openblas", ["COpenBLAS"], "TensorKernels"),
  ("CKernels", "ckernels.h", ["CKernels"], "TensorKernels"),
  ("CSodium", "sodium", ["CSodium"], "CryptoPrimitives"),
  ("COpenSSL", "openssl", ["COpenSSL"], "CryptoPrimitives"),
  ("CAvahi", "avahi", ["CAvahi"], "AvahiDiscovery"),
  ("CSentencePiece", "sentencepiece", ["CSentencePiece", "CSentencePieceLibrary"], "LanguageModels"),
]

/// An import statement: its line, module, and what stands before the keyword.
struct ImportStatement: Equatable {
  let line: Int
  let module: String
  let modifiers: [String]
}

/// The import statements of a Swift file.
func imports(of source: ParsedSource) -> [ImportStatement] {
  source.code.enumerated().compactMap { index, line in
    let words = line.split { $0 == " " || $0 == "\t" || $0 == ";" }.map(String.init)
    guard let keyword = words.firstIndex(of: "import"), keyword + 1 < words.count else { return nil }
    let modifiers = Array(words[..<keyword])
    guard
      modifiers.allSatisfy({ $0.hasPrefix("@") || ["package", "public", "internal", "private"].contains($0) })
    else { return nil }
    let kinds = ["struct", "class", "enum", "func", "var", "let", "protocol", "typealias"]
    let name = kinds.contains(words[keyword + 1]) ? words.last ?? "" : words[keyword + 1]
    return ImportStatement(
      line: index + 1, module: String(name.split(separator: ".").first ?? ""), modifiers: modifiers)
  }
}

/// Imports that the layers do not allow, in a file under Sources or Tests.
///
/// `testDependencies` are Package.swift's dependencies of the test targets.
func importViolations(
  in source: ParsedSource, layers: HouseLayers, testDependencies: [String: Set<String>]
) -> [Violation] {
  guard let target = source.file.target else { return [] }
  var allowed = HouseLayers.language
  if source.file.isInTests {
    allowed.formUnion(HouseLayers.testing.union(testDependencies[target] ?? []))
  } else if let layer = layers.targets[target] {
    allowed.formUnion(layer.dependencies.union(layer.foreign))
  }
  var violations: [Violation] = []
  for statement in imports(of: source) {
    func violation(_ message: String) -> Violation {
      Violation(path: source.file.path, line: statement.line, message: message)
    }
    if !allowed.contains(statement.module) {
      violations.append(violation("\(target) may not import \(statement.module)"))
    }
    if let library = foreignLibraries.first(where: { $0.module == statement.module }),
      source.file.isInSources, library.importer != target
    {
      violations.append(violation("only \(library.importer) may import \(library.module)"))
    }
    if statement.modifiers.contains("@_exported") {
      violations.append(violation("@_exported hides where a name comes from; import it where it is used"))
    }
    if statement.modifiers.contains("@testable") {
      violations.append(violation("tests use package access; @testable needs a second build of everything"))
    }
  }
  return violations
}

/// Headers of a C library that are included outside its own folders.
func includeViolations(in file: SourceFile) -> [Violation] {
  guard file.isC, let target = file.target else { return [] }
  var violations: [Violation] = []
  for (index, line) in file.text.split(separator: "\n", omittingEmptySubsequences: false).enumerated() {
    guard line.hasPrefix("#include") else { continue }
    for library in foreignLibraries where line.contains(library.header) && !library.folders.contains(target) {
      violations.append(
        Violation(
          path: file.path, line: index + 1,
          message: "\(target) may not include \(library.header); \(library.folders[0]) is its only door"))
    }
  }
  return violations
}

/// Dependencies that carry one wing into the other, directly or through other targets.
func wingViolations(in layers: HouseLayers) -> [String] {
  func reach(_ target: String) -> Set<String> {
    var found: Set<String> = []
    var open = [target]
    while let next = open.popLast() {
      for dependency in layers.targets[next]?.dependencies ?? [] where found.insert(dependency).inserted {
        open.append(dependency)
      }
    }
    return found
  }
  var violations: [String] = []
  for target in layers.targets.keys.sorted() {
    let reached = reach(target)
    if reached.contains(target) { violations.append("\(target) depends on itself") }
    let other =
      layers.learningWing.contains(target)
      ? layers.meshWing : layers.meshWing.contains(target) ? layers.learningWing : []
    for name in reached.intersection(other).sorted() {
      violations.append("\(target) reaches \(name), which belongs to the other wing")
    }
  }
  return violations
}

/// The targets that Package.swift declares, with the names of their dependencies (products included).
func declaredTargets(inManifest text: String) -> [(kind: String, name: String, dependencies: Set<String>)] {
  var targets: [(kind: String, name: String, dependencies: Set<String>)] = []
  for kind in ["systemLibrary", "target", "executableTarget", "testTarget"] {
    for piece in text.components(after: ".\(kind)(") {
      let call = balanced(piece)
      guard let name = call.quotedStrings(after: "name:").first else { continue }
      var dependencies: Set<String> = []
      if let list = call.components(after: "dependencies: [").first {
        let inside = balanced(list, open: "[", close: "]")
        // The package of a product is no dependency of its own.
        let packages = Set(
          inside.components(after: "package: ").flatMap { $0.quotedStrings(after: "").prefix(1) })
        dependencies = Set(inside.quotedStrings(after: "")).subtracting(packages)
      }
      targets.append((kind, name, dependencies))
    }
  }
  return targets
}

/// The text up to the bracket that closes the one before it.
private func balanced(_ text: String, open: Character = "(", close: Character = ")") -> String {
  var depth = 0
  for (offset, character) in text.enumerated() {
    if character == open { depth += 1 }
    if character == close {
      if depth == 0 { return String(text.prefix(offset)) }
      depth -= 1
    }
  }
  return text
}

extension String {
  /// The rests of the text after each occurrence of `marker`.
  func components(after marker: String) -> [String] {
    ranges(of: marker).map { String(self[$0.upperBound...]) }
  }

  /// The contents of double quotes after the first occurrence of `marker` (from the start when it is empty).
  func quotedStrings(after marker: String) -> [String] {
    let start = marker.isEmpty ? startIndex : firstRange(of: marker)?.upperBound
    guard let start else { return [] }
    let parts = self[start...].split(separator: "\"", omittingEmptySubsequences: false)
    return parts.enumerated().compactMap { $0 % 2 == 1 ? String($1) : nil }
  }
}

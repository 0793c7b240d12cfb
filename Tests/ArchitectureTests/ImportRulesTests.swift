import Testing

private func parsed(_ path: String, _ text: String) -> ParsedSource { ParsedSource(SourceFile(path, text)) }

@Suite("Layers of the house")
struct ImportRulesTests {
  let manifest = declaredTargets(inManifest: (try? Checkout.file("Package.swift").text) ?? "")
  var testDependencies: [String: Set<String>] {
    Dictionary(
      uniqueKeysWithValues: manifest.filter { $0.kind == "testTarget" }.map { ($0.name, $0.dependencies) })
  }

  @Test("hold in every import of the checkout")
  func checkout() {
    #expect(Checkout.swiftSources.count > 20)
    let violations = Checkout.swiftSources.flatMap {
      importViolations(in: $0, layers: .hearth, testDependencies: testDependencies)
    }
    #expect(violations.isEmpty, "\(report(violations))")
    let includes = Checkout.files.flatMap(includeViolations)
    #expect(includes.isEmpty, "\(report(includes))")
  }

  @Test("are the dependencies that Package.swift declares")
  func packageManifest() {
    let declared = manifest.filter { $0.kind == "target" || $0.kind == "executableTarget" }
    #expect(Set(declared.map(\.name)) == Set(HouseLayers.hearth.targets.keys))
    for target in declared {
      guard let layer = HouseLayers.hearth.targets[target.name] else { continue }
      // Products of packages are foreign modules; what the toolchain brings is not declared.
      let products = target.dependencies.intersection(layer.foreign)
      #expect(target.dependencies.subtracting(products) == layer.dependencies, "\(target.name)")
      #expect(
        layer.foreign.subtracting(products).isSubset(of: HouseLayers.toolchain),
        "\(target.name) may import what Package.swift does not bring")
    }
    #expect(manifest.contains { $0.kind == "testTarget" && $0.dependencies.contains("HearthStorage") })
  }

  @Test("keep the learning wing and the mesh wing apart")
  func wings() {
    #expect(wingViolations(in: .hearth).isEmpty)
    let bad = HouseLayers(
      targets: [
        "FineTuning": .init(dependencies: ["Vocabulary"]), "Vocabulary": .init(dependencies: ["WireCoding"]),
        "WireCoding": .init(dependencies: []), "Loop": .init(dependencies: ["Loop"]),
      ],
      learningWing: ["FineTuning"], meshWing: ["WireCoding"])
    #expect(
      wingViolations(in: bad) == [
        "FineTuning reaches WireCoding, which belongs to the other wing", "Loop depends on itself",
      ])
  }

  @Test(
    "refuse bad samples",
    arguments: [
      ("Sources/TensorKernels/A.swift", "import Foundation", "TensorKernels may not import Foundation"),
      ("Sources/NeuralNetworks/A.swift", "import Glibc", "NeuralNetworks may not import Glibc"),
      ("Sources/FineTuning/A.swift", "import Foundation", "FineTuning may not import Foundation"),
      ("Sources/Determinism/A.swift", "import Logging", "Determinism may not import Logging"),
      ("Sources/FineTuning/A.swift", "import NIOCore", "FineTuning may not import NIOCore"),
      (
        "Sources/TensorKernels/A.swift", "package import NeuralNetworks",
        "TensorKernels may not import NeuralNetworks"
      ),
      (
        "Sources/ActivationCache/A.swift", "import struct LanguageModels.X",
        "ActivationCache may not import LanguageModels"
      ),
      ("Sources/Newcomer/A.swift", "import TensorKernels", "Newcomer may not import TensorKernels"),
      (
        "Tests/TensorKernelsTests/A.swift", "import FineTuning",
        "TensorKernelsTests may not import FineTuning"
      ),
      ("Tests/FineTuningTests/A.swift", "@testable import FineTuning", "@testable needs a second build"),
      ("Sources/hearth/A.swift", "@_exported import HearthNode", "@_exported hides"),
    ])
  func badImports(path: String, text: String, message: String) {
    let violations = importViolations(
      in: parsed(path, text), layers: .hearth,
      testDependencies: ["TensorKernelsTests": ["TensorKernels"], "FineTuningTests": ["FineTuning"]])
    #expect(violations.contains { $0.message.contains(message) }, "\(report(violations))")
  }

  @Test("give every C library one importer")
  func oneImporter() {
    let second = parsed("Sources/NeuralNetworks/A.swift", "private import COpenBLAS")
    let violations = importViolations(in: second, layers: .hearth, testDependencies: [:])
    #expect(violations.contains { $0.message == "only TensorKernels may import COpenBLAS" })
    for library in foreignLibraries where library.module != "CKernels" && library.module != "CSentencePiece" {
      #expect(HouseLayers.hearth.targets.filter { $0.value.dependencies.contains(library.module) }.count == 1)
    }
    let include = SourceFile("Sources/CKernels/a.c", "#include <cblas.h>\n#include <math.h>\n")
    #expect(includeViolations(in: include).map(\.line) == [1])
  }

  @Test("do not mistake comments, strings and other words for imports")
  func otherWords() {
    let source = parsed(
      "Sources/Determinism/A.swift",
      "// import Foundation\nlet text = \"import Glibc\"\n/* import NIO */ let important = 1\n  import Synchronization"
    )
    #expect(imports(of: source) == [ImportStatement(line: 4, module: "Synchronization", modifiers: [])])
  }
}

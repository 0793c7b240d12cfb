// swift-tools-version: 6.2
import PackageDescription

// One settings block for every Swift target: language mode 6, warnings are errors.
let settings: [SwiftSetting] = [
  .treatAllWarnings(as: .error),
  .enableUpcomingFeature("ExistentialAny"),
  .enableUpcomingFeature("InternalImportsByDefault"),
  .enableUpcomingFeature("MemberImportVisibility"),
]

let package = Package(
  name: "hearth",
  products: [
    .executable(name: "hearth", targets: ["hearth"]),
    .executable(name: "hearth-benchmark", targets: ["hearth-benchmark"]),
  ],
  dependencies: [
    .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2")
  ],
  targets: [
    // Foreign code: module map and shim header, no Swift.
    .systemLibrary(name: "COpenBLAS", pkgConfig: "openblas", providers: [.apt(["libopenblas-dev"])]),
    .systemLibrary(name: "CSodium", pkgConfig: "libsodium", providers: [.apt(["libsodium-dev"])]),
    .systemLibrary(
      name: "CSentencePieceLibrary", pkgConfig: "sentencepiece",
      providers: [.apt(["libsentencepiece-dev"])]),
    .target(name: "CSentencePiece", dependencies: ["CSentencePieceLibrary"]),
    .target(name: "CKernels", cSettings: [.unsafeFlags(["-O3", "-fno-math-errno"])]),

    // Vocabulary shared by every wing.
    .target(name: "Determinism", swiftSettings: settings),
    .target(name: "CryptoPrimitives", dependencies: ["CSodium"], swiftSettings: settings),

    // Learning wing.
    .target(
      name: "TensorKernels", dependencies: ["COpenBLAS", "CKernels"], swiftSettings: settings),
    .target(
      name: "NeuralNetworks", dependencies: ["TensorKernels", "Determinism"], swiftSettings: settings),
    .target(
      name: "LanguageModels",
      dependencies: [
        "NeuralNetworks", "TensorKernels", "CSentencePiece", "CryptoPrimitives", "Determinism",
      ],
      swiftSettings: settings),
    .target(
      name: "ActivationCache", dependencies: ["TensorKernels", "CryptoPrimitives"],
      swiftSettings: settings),
    .target(
      name: "FineTuning",
      dependencies: [
        "LanguageModels", "NeuralNetworks", "TensorKernels", "ActivationCache", "CryptoPrimitives",
        "Determinism",
      ],
      swiftSettings: settings),

    // Shells.
    .target(
      name: "HearthStorage", dependencies: ["ActivationCache", "LanguageModels"],
      swiftSettings: settings),
    .target(
      name: "ComputeRuntime", dependencies: ["TensorKernels"], swiftSettings: settings),

    // Hall.
    .target(
      name: "HearthNode",
      dependencies: [
        "FineTuning", "LanguageModels", "NeuralNetworks", "TensorKernels", "ActivationCache",
        "CryptoPrimitives", "Determinism", "HearthStorage", "ComputeRuntime",
      ],
      swiftSettings: settings),
    .executableTarget(
      name: "hearth",
      dependencies: [
        "HearthNode", .product(name: "ArgumentParser", package: "swift-argument-parser"),
      ],
      swiftSettings: settings),
    .executableTarget(
      name: "hearth-benchmark",
      dependencies: [
        "HearthNode", "FineTuning", "LanguageModels", "NeuralNetworks", "TensorKernels",
        "ActivationCache", "HearthStorage", "ComputeRuntime", "CryptoPrimitives", "Determinism",
        .product(name: "ArgumentParser", package: "swift-argument-parser"),
      ],
      swiftSettings: settings),

    // Tests: one target per source target, plus the rules of the house and real processes.
    .testTarget(name: "ArchitectureTests", swiftSettings: settings),
    .testTarget(name: "DeterminismTests", dependencies: ["Determinism"], swiftSettings: settings),
    .testTarget(
      name: "CryptoPrimitivesTests", dependencies: ["CryptoPrimitives"], swiftSettings: settings),
    .testTarget(
      name: "TensorKernelsTests", dependencies: ["TensorKernels", "Determinism"],
      swiftSettings: settings),
    .testTarget(
      name: "NeuralNetworksTests", dependencies: ["NeuralNetworks", "TensorKernels", "Determinism"],
      swiftSettings: settings),
    .testTarget(
      name: "LanguageModelsTests",
      dependencies: ["LanguageModels", "NeuralNetworks", "TensorKernels", "HearthStorage", "Determinism"],
      swiftSettings: settings),
    .testTarget(
      name: "ActivationCacheTests",
      dependencies: [
        "ActivationCache", "HearthStorage", "TensorKernels", "CryptoPrimitives", "Determinism",
      ],
      swiftSettings: settings),
    .testTarget(
      name: "FineTuningTests",
      dependencies: [
        "FineTuning", "LanguageModels", "NeuralNetworks", "TensorKernels", "ActivationCache",
        "HearthStorage", "ComputeRuntime", "Determinism", "CryptoPrimitives",
      ],
      swiftSettings: settings),
    .testTarget(
      name: "HearthStorageTests",
      dependencies: [
        "HearthStorage", "LanguageModels", "ActivationCache", "TensorKernels", "CryptoPrimitives",
        "Determinism",
      ],
      swiftSettings: settings),
    .testTarget(
      name: "ComputeRuntimeTests", dependencies: ["ComputeRuntime", "TensorKernels"],
      swiftSettings: settings),
    .testTarget(
      name: "HearthNodeTests",
      dependencies: [
        "HearthNode", "FineTuning", "LanguageModels", "HearthStorage", "ActivationCache",
        "ComputeRuntime", "TensorKernels", "NeuralNetworks", "Determinism",
      ],
      swiftSettings: settings),
    .testTarget(name: "EndToEndTests", dependencies: ["hearth"], swiftSettings: settings),
  ],
  swiftLanguageModes: [.v6],
  cxxLanguageStandard: .cxx17
)

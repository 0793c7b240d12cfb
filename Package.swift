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
    .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
    .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
    .package(url: "https://github.com/apple/swift-nio", from: "2.101.2"),
  ],
  targets: [
    // Foreign code: module map and shim header, no Swift.
    .systemLibrary(name: "COpenBLAS", pkgConfig: "openblas", providers: [.apt(["libopenblas-dev"])]),
    .systemLibrary(name: "CSodium", pkgConfig: "libsodium", providers: [.apt(["libsodium-dev"])]),
    .systemLibrary(name: "COpenSSL", pkgConfig: "libcrypto", providers: [.apt(["libssl-dev"])]),
    .systemLibrary(
      name: "CSentencePieceLibrary", pkgConfig: "sentencepiece",
      providers: [.apt(["libsentencepiece-dev"])]),
    // avahi-client.pc carries a flag that the package manager refuses, so it is linked by name.
    .systemLibrary(name: "CAvahi", providers: [.apt(["libavahi-client-dev"])]),
    .target(name: "CSentencePiece", dependencies: ["CSentencePieceLibrary"]),
    .target(name: "CKernels", cSettings: [.unsafeFlags(["-O3", "-fno-math-errno"])]),

    // Vocabulary shared by every wing.
    .target(name: "Determinism", swiftSettings: settings),
    .target(name: "CryptoPrimitives", dependencies: ["CSodium", "COpenSSL"], swiftSettings: settings),

    // Mesh wing: pure state machines (event + now -> effects).
    .target(name: "WireCoding", swiftSettings: settings),
    .target(name: "MeshModel", dependencies: ["WireCoding"], swiftSettings: settings),
    .target(name: "MeshProtocol", dependencies: ["MeshModel", "WireCoding"], swiftSettings: settings),
    .target(
      name: "HouseholdTrust", dependencies: ["MeshModel", "WireCoding", "CryptoPrimitives", "Determinism"],
      swiftSettings: settings),
    .target(
      name: "SecureChannel",
      dependencies: [
        "HouseholdTrust", "MeshProtocol", "MeshModel", "WireCoding", "CryptoPrimitives", "Determinism",
      ],
      swiftSettings: settings),
    .target(
      name: "GossipMembership", dependencies: ["MeshModel", "WireCoding", "Determinism"],
      swiftSettings: settings),
    .target(
      name: "PeerDiscovery", dependencies: ["MeshModel", "WireCoding", "CryptoPrimitives", "Determinism"],
      swiftSettings: settings),
    .target(
      name: "MeshPeer",
      dependencies: [
        "GossipMembership", "PeerDiscovery", "HouseholdTrust", "MeshProtocol", "MeshModel", "WireCoding",
        "CryptoPrimitives", "Determinism",
      ],
      swiftSettings: settings),

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

    // Coordination wing: pure.
    .target(name: "PipelineSchedules", swiftSettings: settings),
    .target(
      name: "ParallelPlanner", dependencies: ["PipelineSchedules", "CryptoPrimitives"],
      swiftSettings: settings),

    .target(name: "Collectives", swiftSettings: settings),
    .target(
      name: "TrainingCoordination",
      dependencies: [
        "ParallelPlanner", "PipelineSchedules", "HouseholdTrust", "MeshModel", "WireCoding",
        "CryptoPrimitives", "Determinism",
      ],
      swiftSettings: settings),

    // Shells.
    .target(
      name: "DistributedTraining",
      dependencies: [
        "FineTuning", "LanguageModels", "NeuralNetworks", "TensorKernels", "ActivationCache",
        "ComputeRuntime",
        "Collectives", "ParallelPlanner", "PipelineSchedules", "CryptoPrimitives", "Determinism",
      ],
      swiftSettings: settings),
    .target(
      name: "HearthStorage",
      dependencies: [
        "ActivationCache", "LanguageModels", "HouseholdTrust", "MeshModel", "WireCoding", "CryptoPrimitives",
      ],
      swiftSettings: settings),
    .target(
      name: "ComputeRuntime", dependencies: ["TensorKernels"], swiftSettings: settings),

    .target(
      name: "MeshTransport",
      dependencies: [
        "SecureChannel", "HouseholdTrust", "MeshProtocol", "MeshModel", "WireCoding", "CryptoPrimitives",
        "Determinism", .product(name: "NIOCore", package: "swift-nio"),
        .product(name: "NIOPosix", package: "swift-nio"),
      ],
      swiftSettings: settings),
    .target(
      name: "AvahiDiscovery", dependencies: ["CAvahi", "PeerDiscovery", "MeshModel"], swiftSettings: settings),

    // Hall.
    .target(
      name: "MeshSimulator",
      dependencies: [
        "MeshPeer", "SecureChannel", "GossipMembership", "PeerDiscovery", "HouseholdTrust", "MeshProtocol",
        "MeshModel", "WireCoding", "CryptoPrimitives", "Determinism", "TrainingCoordination", "Collectives",
        "ParallelPlanner", "PipelineSchedules",
      ],
      swiftSettings: settings),
    .target(
      name: "HearthNode",
      dependencies: [
        "FineTuning", "LanguageModels", "NeuralNetworks", "TensorKernels", "ActivationCache",
        "CryptoPrimitives", "Determinism", "HearthStorage", "ComputeRuntime", "MeshPeer", "MeshTransport",
        "AvahiDiscovery", "SecureChannel", "GossipMembership", "PeerDiscovery", "HouseholdTrust",
        "MeshProtocol", "MeshModel", "WireCoding", "ParallelPlanner", "PipelineSchedules", "Collectives",
        "TrainingCoordination", "DistributedTraining",
        .product(name: "Logging", package: "swift-log"),
      ],
      swiftSettings: settings),
    .executableTarget(
      name: "hearth",
      dependencies: [
        "HearthNode", "MeshSimulator", .product(name: "ArgumentParser", package: "swift-argument-parser"),
      ],
      swiftSettings: settings),
    .executableTarget(
      name: "hearth-benchmark",
      dependencies: [
        "HearthNode", "FineTuning", "LanguageModels", "NeuralNetworks", "TensorKernels",
        "ActivationCache", "HearthStorage", "ComputeRuntime", "CryptoPrimitives", "Determinism",
        "MeshTransport", "SecureChannel", "HouseholdTrust", "MeshProtocol", "MeshModel", "ParallelPlanner",
        "Collectives", "DistributedTraining", "TrainingCoordination",
        .product(name: "ArgumentParser", package: "swift-argument-parser"),
      ],
      swiftSettings: settings),

    // Tests: one target per source target, plus the rules of the house and real processes.
    .testTarget(name: "ArchitectureTests", swiftSettings: settings),
    .testTarget(name: "DeterminismTests", dependencies: ["Determinism"], swiftSettings: settings),
    .testTarget(
      name: "CryptoPrimitivesTests", dependencies: ["CryptoPrimitives"], swiftSettings: settings),
    .testTarget(
      name: "WireCodingTests", dependencies: ["WireCoding", "Determinism"], swiftSettings: settings),
    .testTarget(
      name: "MeshModelTests", dependencies: ["MeshModel", "WireCoding", "Determinism"],
      swiftSettings: settings),
    .testTarget(
      name: "MeshProtocolTests", dependencies: ["MeshProtocol", "MeshModel", "WireCoding", "Determinism"],
      swiftSettings: settings),
    .testTarget(
      name: "HouseholdTrustTests",
      dependencies: ["HouseholdTrust", "MeshModel", "WireCoding", "CryptoPrimitives", "Determinism"],
      swiftSettings: settings),
    .testTarget(
      name: "SecureChannelTests",
      dependencies: [
        "SecureChannel", "HouseholdTrust", "MeshProtocol", "MeshModel", "WireCoding", "CryptoPrimitives",
        "Determinism",
      ],
      swiftSettings: settings),
    .testTarget(
      name: "GossipMembershipTests",
      dependencies: ["GossipMembership", "MeshModel", "WireCoding", "Determinism"], swiftSettings: settings),
    .testTarget(
      name: "PeerDiscoveryTests",
      dependencies: ["PeerDiscovery", "MeshModel", "WireCoding", "CryptoPrimitives", "Determinism"],
      swiftSettings: settings),
    .testTarget(
      name: "MeshPeerTests",
      dependencies: [
        "MeshPeer", "GossipMembership", "PeerDiscovery", "HouseholdTrust", "MeshProtocol", "MeshModel",
        "WireCoding", "CryptoPrimitives", "Determinism",
      ],
      swiftSettings: settings),
    .testTarget(
      name: "MeshTransportTests",
      dependencies: [
        "MeshTransport", "SecureChannel", "HouseholdTrust", "MeshProtocol", "MeshModel", "WireCoding",
        "CryptoPrimitives", "Determinism",
      ],
      swiftSettings: settings),
    .testTarget(
      name: "AvahiDiscoveryTests", dependencies: ["AvahiDiscovery", "PeerDiscovery", "MeshModel"],
      swiftSettings: settings),
    .testTarget(
      name: "MeshSimulatorTests",
      dependencies: [
        "MeshSimulator", "MeshPeer", "GossipMembership", "PeerDiscovery", "HouseholdTrust", "MeshProtocol",
        "MeshModel", "WireCoding", "CryptoPrimitives", "Determinism", "TrainingCoordination", "Collectives",
        "ParallelPlanner", "PipelineSchedules",
      ],
      swiftSettings: settings),
    .testTarget(
      name: "TensorKernelsTests", dependencies: ["TensorKernels", "Determinism"],
      swiftSettings: settings),
    .testTarget(
      name: "NeuralNetworksTests", dependencies: ["NeuralNetworks", "TensorKernels", "Determinism"],
      swiftSettings: settings),
    .testTarget(
      name: "LanguageModelsTests",
      dependencies: [
        "LanguageModels", "NeuralNetworks", "TensorKernels", "HearthStorage", "CryptoPrimitives",
        "Determinism",
      ],
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
        "Determinism", "HouseholdTrust", "MeshModel", "WireCoding", "ComputeRuntime", "NeuralNetworks",
      ],
      swiftSettings: settings),
    .testTarget(
      name: "ComputeRuntimeTests", dependencies: ["ComputeRuntime", "TensorKernels"],
      swiftSettings: settings),
    .testTarget(
      name: "PipelineSchedulesTests", dependencies: ["PipelineSchedules", "Determinism"],
      swiftSettings: settings),
    .testTarget(
      name: "ParallelPlannerTests",
      dependencies: ["ParallelPlanner", "PipelineSchedules", "CryptoPrimitives", "Determinism"],
      swiftSettings: settings),
    .testTarget(
      name: "CollectivesTests", dependencies: ["Collectives", "Determinism"], swiftSettings: settings),
    .testTarget(
      name: "TrainingCoordinationTests",
      dependencies: [
        "TrainingCoordination", "ParallelPlanner", "PipelineSchedules", "HouseholdTrust", "MeshModel",
        "WireCoding", "CryptoPrimitives", "Determinism",
      ],
      swiftSettings: settings),
    .testTarget(
      name: "DistributedTrainingTests",
      dependencies: [
        "DistributedTraining", "FineTuning", "LanguageModels", "NeuralNetworks", "TensorKernels",
        "ActivationCache", "ComputeRuntime", "HearthStorage", "Collectives", "ParallelPlanner",
        "PipelineSchedules", "CryptoPrimitives", "Determinism",
      ],
      swiftSettings: settings),
    .testTarget(
      name: "HearthNodeTests",
      dependencies: [
        "ParallelPlanner", "PipelineSchedules", "Collectives", "TrainingCoordination", "DistributedTraining",
        "HearthNode", "FineTuning", "LanguageModels", "HearthStorage", "ActivationCache",
        "ComputeRuntime", "TensorKernels", "NeuralNetworks", "Determinism", "MeshPeer", "MeshTransport",
        "HouseholdTrust", "MeshProtocol", "MeshModel", "WireCoding", "CryptoPrimitives",
        .product(name: "Logging", package: "swift-log"),
      ],
      swiftSettings: settings),
    .testTarget(name: "EndToEndTests", dependencies: ["hearth"], swiftSettings: settings),
  ],
  swiftLanguageModes: [.v6],
  cxxLanguageStandard: .cxx17
)

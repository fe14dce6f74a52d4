// Makes unary gRPC calls, each with the next request of a file, as fast as they are answered.
//
//   load_generator ADDRESS METHOD BODIES SECONDS [--skip N] [--ca FILE] [--metadata NAME=VALUE]
//                  [--prefix HEX] [--suffix HEX] [--items N] [--channels N] [--calls N]
//
// BODIES holds records: a length of 4 bytes, little-endian, and a serialized request. They are used
// in turn, beginning with record SKIP, and again from the first when all were used.
//
// An answer is right if it begins with `prefix` and ends with `suffix`. With `items`, it has to
// consist of so many items of its field 1, each of which begins with `prefix`.
//
// Prints one JSON object: calls, errors (calls that ended with another status than OK), wrong
// (answers that are not right), seconds, p50 and p99 in microseconds, and `told`, the first error.
// All callers share one thread: the program needs one core, and more of it is not used.

#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

constexpr uint8_t kItemTag = 0x0a;  // field 1, with a length

struct Expected {
  std::string prefix, suffix;
  size_t items = 0;
};

struct Call {
  std::unique_ptr<grpc::ClientContext> context;
  std::unique_ptr<grpc::ClientAsyncResponseReader<grpc::ByteBuffer>> reader;
  grpc::GenericStub* stub = nullptr;
  grpc::ByteBuffer answer;
  grpc::Status status;
  Clock::time_point begun;
};

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    std::cerr << "cannot read " << path << std::endl;
    std::exit(2);
  }
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

std::vector<grpc::ByteBuffer> read_bodies(const std::string& path) {
  const std::string all = read_file(path);
  std::vector<grpc::ByteBuffer> bodies;
  for (size_t at = 0; at + 4 <= all.size();) {
    size_t length = 0;
    for (int place = 3; place >= 0; --place) length = length << 8 | uint8_t(all[at + place]);
    grpc::Slice slice(all.data() + at + 4, length);
    bodies.emplace_back(&slice, 1);
    at += 4 + length;
  }
  if (bodies.empty()) {
    std::cerr << path << " holds no request" << std::endl;
    std::exit(2);
  }
  return bodies;
}

std::string from_hex(const std::string& text) {
  std::string bytes;
  for (size_t at = 0; at + 1 < text.size(); at += 2)
    bytes.push_back(char(std::stoi(text.substr(at, 2), nullptr, 16)));
  return bytes;
}

bool has_prefix(const uint8_t* bytes, size_t size, const std::string& prefix) {
  return size >= prefix.size() && !std::memcmp(bytes, prefix.data(), prefix.size());
}

bool has_items(const uint8_t* bytes, size_t size, const Expected& expected) {
  size_t items = 0;
  for (size_t at = 0; at < size; ++items) {
    if (bytes[at++] != kItemTag) return false;
    size_t length = 0;
    for (int shift = 0;; shift += 7) {
      if (at == size || shift > 28) return false;
      const uint8_t byte = bytes[at++];
      length |= size_t(byte & 127) << shift;
      if (byte < 128) break;
    }
    if (length > size - at || !has_prefix(bytes + at, length, expected.prefix)) return false;
    at += length;
  }
  return items == expected.items;
}

bool is_right(const grpc::ByteBuffer& answer, const Expected& expected) {
  if (expected.prefix.empty() && expected.suffix.empty()) return true;
  grpc::Slice slice;
  if (!answer.DumpToSingleSlice(&slice).ok()) return false;
  if (expected.items) return has_items(slice.begin(), slice.size(), expected);
  const std::string& suffix = expected.suffix;
  return has_prefix(slice.begin(), slice.size(), expected.prefix) &&
         slice.size() >= suffix.size() &&
         has_prefix(slice.end() - suffix.size(), suffix.size(), suffix);
}

std::string as_json(const std::string& text) {
  std::ostringstream quoted;
  quoted << '"';
  for (const char one : text) {
    if (one == '"' || one == '\\') quoted << '\\';
    quoted << (uint8_t(one) < 32 ? ' ' : one);
  }
  quoted << '"';
  return quoted.str();
}

class Load {
 public:
  Load(std::string method, std::string metadata, Expected expected,
       std::vector<grpc::ByteBuffer> bodies, size_t skip)
      : method_(std::move(method)),
        expected_(std::move(expected)),
        bodies_(std::move(bodies)),
        next_(skip % bodies_.size()) {
    const size_t at = metadata.find('=');
    if (at != std::string::npos) {
      name_ = metadata.substr(0, at);
      value_ = metadata.substr(at + 1);
    }
  }

  void run(std::vector<std::unique_ptr<grpc::GenericStub>>& stubs, int calls, double seconds) {
    std::vector<Call> callers(stubs.size() * calls);
    begun_ = Clock::now();
    const auto end = begun_ + std::chrono::duration_cast<Clock::duration>(
                                  std::chrono::duration<double>(seconds));
    for (size_t place = 0; place < callers.size(); ++place) {
      callers[place].stub = stubs[place % stubs.size()].get();
      start(&callers[place]);
    }
    void* tag = nullptr;
    bool ok = false;
    for (size_t left = callers.size(); left > 0;) {
      queue_.Next(&tag, &ok);
      Call* call = static_cast<Call*>(tag);
      finish(*call, ok);
      if (Clock::now() < end) {
        start(call);
      } else {
        --left;
      }
    }
    ended_ = Clock::now();
    queue_.Shutdown();
    while (queue_.Next(&tag, &ok)) {
    }
  }

  void print() {
    std::sort(spans_.begin(), spans_.end());
    const std::chrono::duration<double> seconds = ended_ - begun_;
    std::cout << "{\"calls\": " << spans_.size() << ", \"errors\": " << errors_
              << ", \"wrong\": " << wrong_ << ", \"seconds\": " << seconds.count()
              << ", \"p50\": " << quantile(0.5) << ", \"p99\": " << quantile(0.99)
              << ", \"told\": " << as_json(told_) << "}" << std::endl;
  }

 private:
  void start(Call* call) {
    call->context = std::make_unique<grpc::ClientContext>();
    if (!name_.empty()) call->context->AddMetadata(name_, value_);
    call->answer.Clear();
    call->begun = Clock::now();
    call->reader =
        call->stub->PrepareUnaryCall(call->context.get(), method_, bodies_[next_], &queue_);
    next_ = (next_ + 1) % bodies_.size();
    call->reader->StartCall();
    call->reader->Finish(&call->answer, &call->status, call);
  }

  void finish(const Call& call, bool ok) {
    const std::chrono::duration<double, std::micro> span = Clock::now() - call.begun;
    spans_.push_back(float(span.count()));
    if (!ok || !call.status.ok()) {
      if (!errors_++) told_ = call.status.error_message();
    } else if (!is_right(call.answer, expected_)) {
      ++wrong_;
    }
  }

  float quantile(double share) const {
    if (spans_.empty()) return 0;
    return spans_[std::min(size_t(double(spans_.size()) * share), spans_.size() - 1)];
  }

  std::string method_, name_, value_, told_;
  Expected expected_;
  std::vector<grpc::ByteBuffer> bodies_;
  size_t next_;
  grpc::CompletionQueue queue_;
  std::vector<float> spans_;
  size_t errors_ = 0, wrong_ = 0;
  Clock::time_point begun_, ended_;
};

}  // namespace

int main(int count, char** arguments) {
  if (count < 5 || count % 2 == 0) {
    std::cerr << "usage: load_generator ADDRESS METHOD BODIES SECONDS [--OPTION VALUE …]"
              << std::endl;
    return 2;
  }
  std::map<std::string, std::string> options = {{"--channels", "4"}, {"--calls", "16"},
                                                {"--skip", "0"},     {"--items", "0"},
                                                {"--ca", ""},        {"--metadata", ""},
                                                {"--prefix", ""},    {"--suffix", ""}};
  for (int place = 5; place + 1 < count; place += 2) {
    if (!options.count(arguments[place])) {
      std::cerr << "unknown option " << arguments[place] << std::endl;
      return 2;
    }
    options[arguments[place]] = arguments[place + 1];
  }
  std::shared_ptr<grpc::ChannelCredentials> credentials = grpc::InsecureChannelCredentials();
  if (!options["--ca"].empty()) {
    grpc::SslCredentialsOptions tls;
    tls.pem_root_certs = read_file(options["--ca"]);
    credentials = grpc::SslCredentials(tls);
  }
  grpc::ChannelArguments settings;
  settings.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // a connection for each channel
  std::vector<std::unique_ptr<grpc::GenericStub>> stubs;
  for (int made = 0; made < std::stoi(options["--channels"]); ++made) {
    auto channel = grpc::CreateCustomChannel(arguments[1], credentials, settings);
    if (!channel->WaitForConnected(std::chrono::system_clock::now() +
                                   std::chrono::seconds(20))) {
      std::cerr << "cannot connect to " << arguments[1] << std::endl;
      return 2;
    }
    stubs.push_back(std::make_unique<grpc::GenericStub>(channel));
  }
  Load load(arguments[2], options["--metadata"],
            {from_hex(options["--prefix"]), from_hex(options["--suffix"]),
             std::stoul(options["--items"])},
            read_bodies(arguments[3]), std::stoul(options["--skip"]));
  load.run(stubs, std::stoi(options["--calls"]), std::stod(arguments[4]));
  load.print();
}

// A client as somebody would write it who has our .proto files and no code of ours: it asks, pages, uploads, waits,
// reads, deletes and makes mistakes, and prints what it got as JSON. The Node client prints the same.
// The stubs are generated when the tests run, into .venv/clients/go: see ../toolchain.py.
package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"log"
	"os"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	kinodex "kinodex.test/client/kinodexv1"
)

const (
	poll          = 100 * time.Millisecond
	blockBytes    = 1 << 20 // the most that one message of an upload may carry
	refusedBlocks = 16      // far more than is under way at once: the server must get its refusal through
)

type object = map[string]any

var (
	searches kinodex.SearchServiceClient
	library  kinodex.LibraryServiceClient
	health   grpc_health_v1.HealthClient
)

func bearer(token string) context.Context {
	return metadata.AppendToOutgoingContext(context.Background(), "authorization", "Bearer "+token)
}

// Gives up where a call that must succeed did not.
func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}

func each[T, U any](values []T, change func(T) U) []U {
	changed := make([]U, 0, len(values))
	for _, value := range values {
		changed = append(changed, change(value))
	}
	return changed
}

func place(moment *kinodex.Moment) object {
	return object{
		"video_id":      moment.GetVideoId(),
		"start_seconds": moment.GetSpan().GetStartOffset().AsDuration().Seconds(),
		"end_seconds":   moment.GetSpan().GetEndOffset().AsDuration().Seconds(),
		"verdict":       moment.GetVerdict().String(),
	}
}

// Tells all that an error says.
func failure(_ any, err error) object {
	failed, ok := status.FromError(err)
	if err == nil || !ok {
		log.Fatalf("this call should have failed with a status: %v", err)
	}
	told := object{
		"code":           code.Code(failed.Code()).String(),
		"message":        failed.Message(),
		"status_message": failed.Proto().GetMessage(),
		"fields":         []string{},
	}
	for _, detail := range failed.Details() {
		switch one := detail.(type) {
		case *errdetails.ErrorInfo:
			told["reason"], told["domain"], told["metadata"] = one.GetReason(), one.GetDomain(), one.GetMetadata()
		case *errdetails.BadRequest:
			told["fields"] = each(one.GetFieldViolations(), (*errdetails.BadRequest_FieldViolation).GetField)
		case *errdetails.RequestInfo:
			told["request_id"] = one.GetRequestId()
		case error:
			log.Fatal(one)
		}
	}
	return told
}

func upload(ctx context.Context, header *kinodex.UploadHeader, content []byte) (*kinodex.UploadVideoResponse, error) {
	stream, err := library.UploadVideo(ctx)
	if err != nil {
		return nil, err
	}
	err = stream.Send(&kinodex.UploadVideoRequest{Content: &kinodex.UploadVideoRequest_Header{Header: header}})
	for len(content) > 0 && err == nil {
		block := content[:min(blockBytes, len(content))]
		content = content[len(block):]
		err = stream.Send(&kinodex.UploadVideoRequest{Content: &kinodex.UploadVideoRequest_Data{Data: block}})
	}
	if err != nil && !errors.Is(err, io.EOF) { // EOF: the server has ended the call; it says why below
		return nil, err
	}
	return stream.CloseAndRecv()
}

func untilIndexed(ctx context.Context, id string) (*kinodex.Video, []string) {
	var states []string
	for {
		video := must(library.GetVideo(ctx, &kinodex.GetVideoRequest{VideoId: id})).GetVideo()
		if state := video.GetState().String(); len(states) == 0 || states[len(states)-1] != state {
			states = append(states, state)
		}
		if video.GetState() != kinodex.Video_STATE_PROCESSING {
			return video, states
		}
		time.Sleep(poll)
	}
}

// Asks for one page after the other: `ask` gives a page back, and the token of the next one.
func pages[T any](ask func(token string) (T, string)) []T {
	page, token := ask("")
	all := []T{page}
	for token != "" {
		page, token = ask(token)
		all = append(all, page)
	}
	return all
}

func main() {
	address := flag.String("address", "", "HOST:PORT")
	ca := flag.String("ca", "", "PEM file; empty: no TLS")
	token := flag.String("token", "", "that may write")
	readingToken := flag.String("reading-token", "", "that may not")
	video := flag.String("video", "", "the file to upload")
	flag.Parse()

	protection := insecure.NewCredentials()
	if *ca != "" {
		protection = must(credentials.NewClientTLSFromFile(*ca, ""))
	}
	connection := must(grpc.NewClient(*address, grpc.WithTransportCredentials(protection)))
	defer connection.Close()
	searches, library = kinodex.NewSearchServiceClient(connection), kinodex.NewLibraryServiceClient(connection)
	health = grpc_health_v1.NewHealthClient(connection)
	if err := json.NewEncoder(os.Stdout).Encode(tour(bearer(*token), bearer(*readingToken), *video)); err != nil {
		log.Fatal(err)
	}
}

func tour(writer, reader context.Context, path string) object {
	green := &kinodex.Query{Text: "green", Channel: kinodex.Channel_CHANNEL_VISUAL}
	whole := must(searches.SearchMoments(writer, &kinodex.SearchMomentsRequest{Query: green, PageSize: 100}))
	momentPages := pages(func(token string) ([]object, string) {
		request := &kinodex.SearchMomentsRequest{Query: green, PageSize: 2, PageToken: token}
		page := must(searches.SearchMoments(writer, request))
		return each(page.GetMoments(), place), page.GetNextPageToken()
	})
	foreignToken := ""
	videoPages := pages(func(token string) ([]string, string) {
		request := &kinodex.SearchVideosRequest{Query: green, PageSize: 2, PageToken: token}
		page := must(searches.SearchVideos(writer, request))
		if token == "" {
			foreignToken = page.GetNextPageToken()
		}
		return each(page.GetVideos(), (*kinodex.VideoMatch).GetVideoId), page.GetNextPageToken()
	})
	listPages := pages(func(token string) ([]string, string) {
		page := must(library.ListVideos(writer, &kinodex.ListVideosRequest{PageSize: 2, PageToken: token}))
		return each(page.GetVideos(), (*kinodex.Video).GetVideoId), page.GetNextPageToken()
	})

	content := must(os.ReadFile(path))
	sum := sha256.Sum256(content)
	header := &kinodex.UploadHeader{
		Filename:  "new.mp4",
		SizeBytes: int64(len(content)),
		Sha256:    hex.EncodeToString(sum[:]),
		Metadata:  map[string]string{"camera": "7"},
	}
	uploaded := must(upload(writer, header, content)).GetVideo()
	video, states := untilIndexed(writer, uploaded.GetVideoId())
	id := video.GetVideoId()
	moments := must(searches.SearchMoments(writer, &kinodex.SearchMomentsRequest{
		Query:    &kinodex.Query{Text: "red", Channel: kinodex.Channel_CHANNEL_VISUAL},
		Filter:   &kinodex.Filter{VideoIds: []string{id}},
		PageSize: 1,
	})).GetMoments()
	utterances := must(library.GetTranscript(writer, &kinodex.GetTranscriptRequest{VideoId: id})).GetUtterances()
	offset := durationpb.New(5250 * time.Millisecond)
	frame := must(library.GetFrame(writer, &kinodex.GetFrameRequest{VideoId: id, Offset: offset}))
	must(library.DeleteVideo(writer, &kinodex.DeleteVideoRequest{VideoId: id}))

	checked := must(health.Check(context.Background(), &grpc_health_v1.HealthCheckRequest{})) // as a load balancer does
	wrong := &kinodex.UploadHeader{Filename: "new.mp4", Sha256: strings.Repeat("0", 64)}
	return object{
		"health":       checked.GetStatus().String(),
		"whole":        each(whole.GetMoments(), place),
		"moment_pages": momentPages,
		"video_pages":  videoPages,
		"list_pages":   listPages,
		"uploaded":     object{"state": uploaded.GetState().String(), "uri": uploaded.GetUri()},
		"states":       states,
		"ready": object{
			"video_id":           id,
			"metadata":           video.GetMetadata(),
			"duration_seconds":   video.GetDuration().AsDuration().Seconds(),
			"frame_count":        video.GetFrameCount(),
			"utterance_count":    video.GetUtteranceCount(),
			"content_sha256":     video.GetContentSha256(),
			"index_time_seconds": video.GetIndexTime().GetSeconds(),
		},
		"moments": each(moments, place),
		"transcript": each(utterances, func(one *kinodex.Utterance) object {
			return object{
				"text":          one.GetText(),
				"start_seconds": one.GetSpan().GetStartOffset().AsDuration().Seconds(),
				"words":         each(one.GetWords(), (*kinodex.Word).GetText),
			}
		}),
		"frame": object{
			"offset_seconds": frame.GetOffset().AsDuration().Seconds(),
			"hex":            hex.EncodeToString(frame.GetJpeg()[:3]),
			"length":         len(frame.GetJpeg()),
		},
		"errors": object{
			"deleted":        failure(library.GetVideo(writer, &kinodex.GetVideoRequest{VideoId: id})),
			"empty_question": failure(searches.SearchMoments(writer, &kinodex.SearchMomentsRequest{PageSize: -1})),
			"foreign_page": failure(searches.SearchMoments(writer, &kinodex.SearchMomentsRequest{
				Query: green, PageToken: foreignToken,
			})),
			"wrong_sha256": failure(upload(writer, wrong, content)),
			"no_token":     failure(library.ListVideos(context.Background(), &kinodex.ListVideosRequest{})),
			"refused_upload": failure(upload(
				reader, &kinodex.UploadHeader{Filename: "big.mp4"}, make([]byte, refusedBlocks*blockBytes),
			)),
		},
	}
}

// Command prefill runs the attention of one layer through its gate:
//
//	prefill GATE_FOLDER TENSORS.safetensors [LAYER]
package main

import (
	"context"
	"fmt"
	"hash/crc32"
	"log"
	"os"
	"os/signal"
	"strconv"

	"example.com/seerattn"
	"example.com/seerattn/safetensors"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) < 3 || len(os.Args) > 4 {
		log.Fatal("usage: prefill GATE_FOLDER TENSORS.safetensors [LAYER]")
	}
	layer := 0
	if len(os.Args) == 4 {
		var err error
		if layer, err = strconv.Atoi(os.Args[3]); err != nil {
			log.Fatal(err)
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt) // Ctrl-C cancels
	defer stop()
	if err := run(ctx, os.Args[1], os.Args[2], layer); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, gates, tensors string, layer int) error {
	backend, err := seerattn.ParseBackend(os.Getenv("SEER_BACKEND"))
	if err != nil {
		return err
	}
	dev, err := seerattn.Open(seerattn.Options{Backend: backend})
	if err != nil {
		return err
	}
	defer dev.Close()
	model, err := dev.LoadDir(ctx, gates, seerattn.LoadOptions{})
	if err != nil {
		return err
	}
	defer model.Close()

	file, err := safetensors.Open(tensors)
	if err != nil {
		return err
	}
	defer file.Close()
	var args seerattn.PrefillArgs // zero values are defaults: the model's selection, RoPE and scale
	for name, t := range map[string]*seerattn.Tensor{"q": &args.Q, "k": &args.K, "v": &args.V} {
		if *t, err = file.Tensor(name); err != nil {
			return err
		}
	}
	args.Out = seerattn.NewTensor(args.Q.DType(), args.Q.Shape()...)

	stats, err := dev.Prefill(ctx, model, layer, &args)
	if err != nil {
		return err
	}
	fmt.Printf("density  %.1f %%\n", 100*stats.Density())
	fmt.Printf("time     %.2f ms\n", float64(stats.DeviceNs)/1e6)
	fmt.Printf("checksum %08x\n", crc32.ChecksumIEEE(args.Out.Bytes()))
	return nil
}
